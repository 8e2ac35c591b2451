-- When a user was connected last, on the user's own shard.
CREATE TABLE IF NOT EXISTS last_seen (
    user_key BINARY(8)     NOT NULL,
    user_id  VARBINARY(64) NOT NULL,
    at       BIGINT        NOT NULL,
    PRIMARY KEY (user_key, user_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
