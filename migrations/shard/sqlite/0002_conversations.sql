-- A conversation's head: the counters everything else follows from (INV-SEQ, INV-REV).
CREATE TABLE IF NOT EXISTS conversations (
    id               BLOB    NOT NULL,
    kind             INTEGER NOT NULL, -- 1 direct, 2 group, 3 channel
    title            TEXT    NULL,
    metadata         TEXT    NULL,
    created_by       BLOB    NOT NULL,
    created_at       INTEGER NOT NULL,
    head_seq         INTEGER NOT NULL,
    rev              INTEGER NOT NULL,
    members_rev      INTEGER NOT NULL, -- of the latest change to who is a member, and in which role
    member_count     INTEGER NOT NULL,
    relayed          INTEGER NOT NULL, -- 0: too large; lists read its head here
    first_members    TEXT    NOT NULL, -- the ids of the first few members, as JSON, for lists
    last_sender      BLOB    NULL,
    last_type        INTEGER NULL,
    last_preview     TEXT    NULL,
    last_at          INTEGER NOT NULL, -- of the newest message, or the creation
    oldest_hot_at    INTEGER NULL, -- when the oldest message that is not archived was sent
    marked           INTEGER NULL, -- 1: the relay still has to tell every member's list; else NULL
    deleted_at       INTEGER NULL,
    PRIMARY KEY (id)
) WITHOUT ROWID
