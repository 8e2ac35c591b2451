-- Whom a user blocks, on the user's own shard; derived from the direct conversations by the relay.
CREATE TABLE IF NOT EXISTS blocks (
    user_key   BINARY(8)     NOT NULL,
    user_id    VARBINARY(64) NOT NULL,
    blocked_id VARBINARY(64) NOT NULL,
    PRIMARY KEY (user_key, user_id, blocked_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
