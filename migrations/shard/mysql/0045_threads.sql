-- How many rows of replies an answered message (root) has, and when the newest of them was sent.
CREATE TABLE IF NOT EXISTS threads (
    conversation_id BINARY(16) NOT NULL,
    root            BIGINT     NOT NULL,
    replies         BIGINT     NOT NULL,
    last_at         BIGINT     NOT NULL,
    PRIMARY KEY (conversation_id, root)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
