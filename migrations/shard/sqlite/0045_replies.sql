-- Which messages answer which (root), in whatever tier they are; not deleted ones.
CREATE TABLE IF NOT EXISTS replies (
    conversation_id BLOB    NOT NULL,
    root            INTEGER NOT NULL,
    seq             INTEGER NOT NULL,
    sent_at         INTEGER NOT NULL,
    PRIMARY KEY (conversation_id, root, seq)
) WITHOUT ROWID
