-- A user's newest notifications, on the user's own shard.
CREATE TABLE IF NOT EXISTS notifications (
    user_key   BLOB    NOT NULL,
    user_id    BLOB    NOT NULL,
    number     INTEGER NOT NULL, -- 1, 2, 3 …: the user's own
    type       TEXT    NOT NULL,
    priority   INTEGER NOT NULL,
    title      TEXT    NOT NULL,
    body       TEXT    NOT NULL,
    action_url TEXT    NULL,
    metadata   TEXT    NULL,
    created_at INTEGER NOT NULL,
    read_at    INTEGER NULL,
    PRIMARY KEY (user_key, user_id, number)
) WITHOUT ROWID
