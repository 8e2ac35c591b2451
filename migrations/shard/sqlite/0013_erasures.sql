-- Deleted messages whose content is still in archived objects, and the receipts of those where it no longer is (INV-ERASE).
CREATE TABLE IF NOT EXISTS erasures (
    conversation_id BLOB    NOT NULL,
    seq             INTEGER NOT NULL, -- 0: the whole conversation
    requested_at    INTEGER NOT NULL,
    rewritten_at    INTEGER     NULL, -- since when no index names the content
    erased_at       INTEGER     NULL, -- since when no object holds it
    PRIMARY KEY (conversation_id, seq)
) WITHOUT ROWID
