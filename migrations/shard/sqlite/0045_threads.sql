-- How many rows of replies an answered message (root) has, and when the newest of them was sent.
CREATE TABLE IF NOT EXISTS threads (
    conversation_id BLOB    NOT NULL,
    root            INTEGER NOT NULL,
    replies         INTEGER NOT NULL,
    last_at         INTEGER NOT NULL,
    PRIMARY KEY (conversation_id, root)
) WITHOUT ROWID
