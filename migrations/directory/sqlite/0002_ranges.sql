-- The map: which shard owns which keys, since which epoch (INV-OWNER).
CREATE TABLE IF NOT EXISTS ranges (
    range_start      BLOB    NOT NULL,
    range_end        BLOB    NULL, -- NULL: the end of the key space
    shard            TEXT    NOT NULL,
    epoch            INTEGER NOT NULL,
    PRIMARY KEY (range_start)
) WITHOUT ROWID
