-- One row a message: the unit of sync, of archiving and of moving.
CREATE TABLE IF NOT EXISTS messages (
    conversation_id BINARY(16)    NOT NULL,
    seq             BIGINT        NOT NULL,
    rev             BIGINT        NOT NULL,
    sender_id       VARBINARY(64) NOT NULL,
    client_msg_id   VARBINARY(64)     NULL,
    body_digest     BIGINT            NULL, -- XXH3-64 of what was sent under client_msg_id
    message_type    TINYINT       NOT NULL, -- 1 text, 2 image, 3 voice, 4 file, 5 system
    content         MEDIUMTEXT    NOT NULL,
    reply_to        BIGINT            NULL,
    attachments     MEDIUMTEXT        NULL,
    reactions       MEDIUMTEXT        NULL,
    metadata        MEDIUMTEXT        NULL,
    edit_history    MEDIUMTEXT        NULL,
    created_at      BIGINT        NOT NULL,
    edited_at       BIGINT            NULL,
    deleted_at      BIGINT            NULL,
    PRIMARY KEY (conversation_id, seq),
    UNIQUE KEY messages_client_msg_id (conversation_id, sender_id, client_msg_id),
    KEY messages_rev (conversation_id, rev)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
