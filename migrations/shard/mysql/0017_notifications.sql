-- A user's newest notifications, on the user's own shard.
CREATE TABLE IF NOT EXISTS notifications (
    user_key   BINARY(8)     NOT NULL,
    user_id    VARBINARY(64) NOT NULL,
    number     BIGINT        NOT NULL, -- 1, 2, 3 …: the user's own
    type       VARCHAR(64)   NOT NULL,
    priority   TINYINT       NOT NULL,
    title      VARCHAR(255)  NOT NULL,
    body       TEXT          NOT NULL,
    action_url TEXT              NULL,
    metadata   TEXT              NULL,
    created_at BIGINT        NOT NULL,
    read_at    BIGINT            NULL,
    PRIMARY KEY (user_key, user_id, number),
    KEY notifications_unread (user_key, user_id, read_at, number)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
