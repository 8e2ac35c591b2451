-- How many notifications a user was ever sent, on the user's own shard: the number of the newest.
CREATE TABLE IF NOT EXISTS notification_heads (
    user_key BLOB    NOT NULL,
    user_id  BLOB    NOT NULL,
    head     INTEGER NOT NULL,
    PRIMARY KEY (user_key, user_id)
) WITHOUT ROWID
