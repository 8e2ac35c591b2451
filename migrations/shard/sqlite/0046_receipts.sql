-- How a member's watermarks moved: a JSON list of [time, delivered, read], the latest last; the time 0: not known any more.
CREATE TABLE IF NOT EXISTS receipts (
    conversation_id BLOB NOT NULL,
    user_id         BLOB NOT NULL,
    steps           TEXT NOT NULL,
    PRIMARY KEY (conversation_id, user_id)
) WITHOUT ROWID
