-- What readers reported to moderators.
CREATE TABLE IF NOT EXISTS reports (
    id              BIGINT         NOT NULL, -- 1, 2, 3 …
    conversation_id BINARY(16)     NOT NULL,
    seq             BIGINT         NOT NULL,
    rev             BIGINT         NOT NULL, -- of the message as it was reported
    sender          VARBINARY(64)  NOT NULL,
    reporter        VARBINARY(64)  NOT NULL,
    reason          VARCHAR(16)    NOT NULL,
    note            VARCHAR(500)       NULL, -- NULL, too, once the evidence is deleted
    evidence        MEDIUMTEXT         NULL, -- the message, a JSON object; NULL once it is deleted
    reported_at     BIGINT         NOT NULL,
    state           VARCHAR(16)    NOT NULL, -- open, resolved
    verdict         VARCHAR(16)        NULL,
    resolution      VARCHAR(500)       NULL,
    resolved_by     VARBINARY(64)      NULL,
    resolved_at     BIGINT             NULL,
    forget_at       BIGINT             NULL, -- when the evidence is to be deleted
    PRIMARY KEY (id),
    UNIQUE KEY reports_message (conversation_id, seq, reporter),
    KEY reports_conversation (conversation_id, id),
    KEY reports_sender (sender, id),
    KEY reports_state (state, id),
    KEY reports_reporter (reporter, state),
    KEY reports_forget (forget_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
