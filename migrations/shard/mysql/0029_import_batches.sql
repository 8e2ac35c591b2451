-- Which records of an imported channel are which messages, and a digest of all records up to then.
CREATE TABLE IF NOT EXISTS import_batches (
    conversation_id BINARY(16) NOT NULL,
    last_record     BIGINT     NOT NULL, -- the batch begins after the last record of the one before
    last_seq        BIGINT     NOT NULL, -- of that record; the batch's messages have consecutive seqs
    digest          BIGINT         NULL, -- XXH3-64; NULL for what a version imported that kept none
    PRIMARY KEY (conversation_id, last_record)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
