-- What was done to the archive: when, by whom, why, with which result.
CREATE TABLE IF NOT EXISTS archive_jobs (
    id         BLOB    NOT NULL,
    kind       TEXT    NOT NULL,
    actor      TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER     NULL, -- NULL: running, or its process died
    outcome    TEXT        NULL, -- done, or what stopped it
    figures    TEXT    NOT NULL, -- as JSON
    PRIMARY KEY (id)
) WITHOUT ROWID
