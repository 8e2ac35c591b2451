-- Which messages use which files: a file lives as long as a message uses it.
CREATE TABLE IF NOT EXISTS media_refs (
    conversation_id BLOB    NOT NULL,
    seq             INTEGER NOT NULL,
    media_id        BLOB    NOT NULL,
    PRIMARY KEY (conversation_id, seq, media_id)
) WITHOUT ROWID
