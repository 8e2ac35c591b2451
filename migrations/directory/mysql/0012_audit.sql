-- The audit log. Rows are only ever added; of what names people, all but the digest can be erased.
CREATE TABLE IF NOT EXISTS audit (
    number  BIGINT         NOT NULL, -- 1, 2, 3 …
    at      BIGINT         NOT NULL, -- never before the record before
    action  VARCHAR(32)    NOT NULL,
    actor   VARBINARY(128)     NULL, -- user/…, operator/…, node/…; NULL once erased
    subject VARBINARY(128)     NULL,
    reason  VARCHAR(500)       NULL,
    details MEDIUMTEXT         NULL, -- a JSON object
    salt    BINARY(16)         NULL, -- NULL once actor, subject, reason and details are erased
    digest  BINARY(32)     NOT NULL, -- of salt, actor, subject, reason and details
    hash    BINARY(32)     NOT NULL, -- of the hash before, number, at, action and digest
    PRIMARY KEY (number),
    KEY audit_at (at),
    KEY audit_actor (actor, number),
    KEY audit_subject (subject, number),
    KEY audit_action (action, number)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
