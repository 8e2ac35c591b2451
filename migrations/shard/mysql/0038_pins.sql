-- Which messages of a conversation are pinned, in whatever tier they are.
CREATE TABLE IF NOT EXISTS pins (
    conversation_id BINARY(16) NOT NULL,
    seq             BIGINT     NOT NULL,
    PRIMARY KEY (conversation_id, seq)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
