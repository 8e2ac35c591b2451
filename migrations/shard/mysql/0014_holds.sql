-- Conversations under a legal hold: nothing of them is deleted, dropped or archived away.
CREATE TABLE IF NOT EXISTS holds (
    conversation_id BINARY(16)   NOT NULL,
    placed_at       BIGINT       NOT NULL,
    actor           VARCHAR(128) NOT NULL,
    reason          VARCHAR(255) NOT NULL,
    PRIMARY KEY (conversation_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
