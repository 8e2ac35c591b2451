-- Moves of ranges between shards: each row is a job that any process can go on with, and decides what the fences of both shards
-- have to say (INV-OWNER).
CREATE TABLE IF NOT EXISTS moves (
    id           BLOB NOT NULL,
    range_start  BLOB NOT NULL,
    range_end    BLOB NULL, -- NULL: the end of the key space
    source       TEXT NOT NULL,
    target       TEXT NOT NULL,
    epoch        INTEGER NOT NULL, -- of the range on the source
    state        TEXT NOT NULL, -- copying, catching_up, frozen, committed, draining, done, aborting, aborted, reversed
    attempt      INTEGER NOT NULL, -- counts the freezes
    frozen_until INTEGER NULL, -- by the clock of this database; a freeze is not committed after that
    runner       INTEGER NOT NULL, -- counts the processes that worked on it
    runner_name  TEXT NOT NULL,
    runner_until INTEGER NOT NULL, -- when another process may take it over, by the same clock
    paused       INTEGER NOT NULL,
    keep_until   INTEGER NULL, -- until when the source keeps its rows after the commit
    actor        TEXT NOT NULL,
    reason       TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    changed_at   INTEGER NOT NULL, -- when it came into its state
    PRIMARY KEY (id)
) WITHOUT ROWID
