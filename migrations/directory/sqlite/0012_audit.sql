-- The audit log. Rows are only ever added; of what names people, all but the digest can be erased.
CREATE TABLE IF NOT EXISTS audit (
    number  INTEGER PRIMARY KEY, -- 1, 2, 3 …
    at      INTEGER NOT NULL, -- never before the record before
    action  TEXT    NOT NULL,
    actor   BLOB        NULL, -- user/…, operator/…, node/…; NULL once erased
    subject BLOB        NULL,
    reason  TEXT        NULL,
    details TEXT        NULL, -- a JSON object
    salt    BLOB        NULL, -- NULL once actor, subject, reason and details are erased
    digest  BLOB    NOT NULL, -- of salt, actor, subject, reason and details
    hash    BLOB    NOT NULL  -- of the hash before, number, at, action and digest
)
