-- What moderators imposed on users; rows are only ever added, and marked as lifted.
CREATE TABLE IF NOT EXISTS sanctions (
    id         INTEGER PRIMARY KEY, -- the rev that imposed it
    rev        INTEGER NOT NULL, -- 1, 2, 3 …: of the latest change, among all sanctions
    user_id    BLOB    NOT NULL,
    kind       TEXT    NOT NULL, -- mute, suspend, ban
    ends_at    INTEGER     NULL, -- NULL: when it is lifted
    reason     TEXT    NOT NULL,
    imposed_by BLOB    NOT NULL,
    imposed_at INTEGER NOT NULL,
    lifted_by  BLOB        NULL,
    lifted_at  INTEGER     NULL
)
