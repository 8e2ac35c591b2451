-- The segments that this shard wrote or names: the intent before the upload, and what became of it (INV-OBJECT).
CREATE TABLE IF NOT EXISTS archive_segments (
    id         BLOB    NOT NULL,
    generation INTEGER NOT NULL,
    state      TEXT    NOT NULL, -- writing, published, settled, superseded, deleting
    bytes      INTEGER NOT NULL,
    messages   INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL, -- when it came into its state
    PRIMARY KEY (id)
) WITHOUT ROWID
