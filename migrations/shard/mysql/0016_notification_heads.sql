-- How many notifications a user was ever sent, on the user's own shard: the number of the newest.
CREATE TABLE IF NOT EXISTS notification_heads (
    user_key BINARY(8)     NOT NULL,
    user_id  VARBINARY(64) NOT NULL,
    head     BIGINT        NOT NULL,
    PRIMARY KEY (user_key, user_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
