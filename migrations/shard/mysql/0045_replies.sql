-- Which messages answer which (root), in whatever tier they are; not deleted ones.
CREATE TABLE IF NOT EXISTS replies (
    conversation_id BINARY(16) NOT NULL,
    root            BIGINT     NOT NULL,
    seq             BIGINT     NOT NULL,
    sent_at         BIGINT     NOT NULL,
    PRIMARY KEY (conversation_id, root, seq)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
