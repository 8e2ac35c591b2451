-- One row a message: the unit of sync, of archiving and of moving.
CREATE TABLE IF NOT EXISTS messages (
    conversation_id  BLOB    NOT NULL,
    seq              INTEGER NOT NULL,
    rev              INTEGER NOT NULL,
    sender_id        BLOB    NOT NULL,
    client_msg_id    BLOB    NULL,
    body_digest      INTEGER NULL, -- XXH3-64 of what was sent under client_msg_id
    message_type     INTEGER NOT NULL, -- 1 text, 2 image, 3 voice, 4 file, 5 system
    content          TEXT    NOT NULL,
    reply_to         INTEGER NULL,
    attachments      TEXT    NULL,
    reactions        TEXT    NULL,
    metadata         TEXT    NULL,
    edit_history     TEXT    NULL,
    created_at       INTEGER NOT NULL,
    edited_at        INTEGER NULL,
    deleted_at       INTEGER NULL,
    PRIMARY KEY (conversation_id, seq)
) WITHOUT ROWID
