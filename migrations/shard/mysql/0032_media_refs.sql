-- Which messages use which files: a file lives as long as a message uses it.
CREATE TABLE IF NOT EXISTS media_refs (
    conversation_id BINARY(16) NOT NULL,
    seq             BIGINT     NOT NULL,
    media_id        BINARY(16) NOT NULL,
    PRIMARY KEY (conversation_id, seq, media_id),
    KEY media_refs_media (conversation_id, media_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
