-- Which records of an imported channel are which messages, and a digest of all records up to then.
CREATE TABLE IF NOT EXISTS import_batches (
    conversation_id BLOB    NOT NULL,
    last_record     INTEGER NOT NULL, -- the batch begins after the last record of the one before
    last_seq        INTEGER NOT NULL, -- of that record; the batch's messages have consecutive seqs
    digest          INTEGER     NULL, -- XXH3-64; NULL for what a version imported that kept none
    PRIMARY KEY (conversation_id, last_record)
) WITHOUT ROWID
