-- What readers reported to moderators.
CREATE TABLE IF NOT EXISTS reports (
    id              INTEGER PRIMARY KEY, -- 1, 2, 3 …
    conversation_id BLOB    NOT NULL,
    seq             INTEGER NOT NULL,
    rev             INTEGER NOT NULL, -- of the message as it was reported
    sender          BLOB    NOT NULL,
    reporter        BLOB    NOT NULL,
    reason          TEXT    NOT NULL,
    note            TEXT        NULL, -- NULL, too, once the evidence is deleted
    evidence        TEXT        NULL, -- the message, a JSON object; NULL once it is deleted
    reported_at     INTEGER NOT NULL,
    state           TEXT    NOT NULL, -- open, resolved
    verdict         TEXT        NULL,
    resolution      TEXT        NULL,
    resolved_by     BLOB        NULL,
    resolved_at     INTEGER     NULL,
    forget_at       INTEGER     NULL -- when the evidence is to be deleted
)
