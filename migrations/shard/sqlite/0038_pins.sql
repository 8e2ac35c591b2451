-- Which messages of a conversation are pinned, in whatever tier they are.
CREATE TABLE IF NOT EXISTS pins (
    conversation_id BLOB    NOT NULL,
    seq             INTEGER NOT NULL,
    PRIMARY KEY (conversation_id, seq)
) WITHOUT ROWID
