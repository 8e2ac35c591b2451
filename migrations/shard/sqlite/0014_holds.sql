-- Conversations under a legal hold: nothing of them is deleted, dropped or archived away.
CREATE TABLE IF NOT EXISTS holds (
    conversation_id BLOB    NOT NULL,
    placed_at       INTEGER NOT NULL,
    actor           TEXT    NOT NULL,
    reason          TEXT    NOT NULL,
    PRIMARY KEY (conversation_id)
) WITHOUT ROWID
