-- Which messages mention which members, as far as these have not read them.
CREATE TABLE IF NOT EXISTS mentions (
    conversation_id BLOB    NOT NULL,
    user_id         BLOB    NOT NULL,
    seq             INTEGER NOT NULL,
    PRIMARY KEY (conversation_id, user_id, seq)
) WITHOUT ROWID
