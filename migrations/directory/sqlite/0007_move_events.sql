-- What happened to moves; rows are only ever added.
CREATE TABLE IF NOT EXISTS move_events (
    job    BLOB NOT NULL,
    number INTEGER NOT NULL, -- 1, 2, 3 …: the move's own
    at     INTEGER NOT NULL,
    actor  TEXT NOT NULL,
    event  TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (job, number)
) WITHOUT ROWID
