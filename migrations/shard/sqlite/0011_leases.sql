-- Who may run a job on a range: archive jobs and moves exclude each other.
CREATE TABLE IF NOT EXISTS leases (
    range_start BLOB    NOT NULL,
    holder      TEXT    NOT NULL,
    generation  INTEGER NOT NULL, -- grows with every holder; checked by everything the holder commits
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (range_start)
) WITHOUT ROWID
