-- When a user was connected last, on the user's own shard.
CREATE TABLE IF NOT EXISTS last_seen (
    user_key BLOB    NOT NULL,
    user_id  BLOB    NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (user_key, user_id)
) WITHOUT ROWID
