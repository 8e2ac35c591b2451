-- The key ranges this shard owns or owned (INV-OWNER). A writer locks its range's row shared, a move locks it exclusively.
CREATE TABLE IF NOT EXISTS fences (
    range_start      BLOB    NOT NULL,
    range_end        BLOB    NULL, -- NULL: the end of the key space
    epoch            INTEGER NOT NULL,
    state            TEXT    NOT NULL, -- open, moving, frozen, gone
    PRIMARY KEY (range_start)
) WITHOUT ROWID
