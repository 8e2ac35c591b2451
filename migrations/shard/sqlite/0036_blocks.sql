-- Whom a user blocks, on the user's own shard; derived from the direct conversations by the relay.
CREATE TABLE IF NOT EXISTS blocks (
    user_key   BLOB NOT NULL,
    user_id    BLOB NOT NULL,
    blocked_id BLOB NOT NULL,
    PRIMARY KEY (user_key, user_id, blocked_id)
) WITHOUT ROWID
