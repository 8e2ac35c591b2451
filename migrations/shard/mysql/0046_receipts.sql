-- How a member's watermarks moved: a JSON list of [time, delivered, read], the latest last; the time 0: not known any more.
CREATE TABLE IF NOT EXISTS receipts (
    conversation_id BINARY(16)    NOT NULL,
    user_id         VARBINARY(64) NOT NULL,
    steps           VARCHAR(4000) NOT NULL,
    PRIMARY KEY (conversation_id, user_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
