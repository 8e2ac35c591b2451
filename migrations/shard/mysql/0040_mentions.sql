-- Which messages mention which members, as far as these have not read them.
CREATE TABLE IF NOT EXISTS mentions (
    conversation_id BINARY(16)    NOT NULL,
    user_id         VARBINARY(64) NOT NULL,
    seq             BIGINT        NOT NULL,
    PRIMARY KEY (conversation_id, user_id, seq)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
