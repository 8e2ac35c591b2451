-- Ranges that are being copied to this shard: how far, and by which runner. Changed in the transactions that store the rows.
CREATE TABLE IF NOT EXISTS arrivals (
    job         BLOB NOT NULL,
    range_start BLOB NOT NULL,
    range_end   BLOB NULL, -- NULL: the end of the key space
    runner      INTEGER NOT NULL, -- transactions of an earlier one change nothing
    step        INTEGER NOT NULL, -- how many tables are copied
    position    BLOB NOT NULL, -- the last key that was copied of the next one; empty before the first
    copied_rows INTEGER NOT NULL,
    copied_bytes INTEGER NOT NULL,
    PRIMARY KEY (job)
) WITHOUT ROWID
