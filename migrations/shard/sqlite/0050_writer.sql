-- The one server of a cluster that may write this shard: no row, as SQLite has no server.
CREATE TABLE IF NOT EXISTS writer (
    slot   INTEGER NOT NULL, -- 1
    server TEXT    NOT NULL, -- its host's name and port
    since  INTEGER NOT NULL,
    PRIMARY KEY (slot)
)
