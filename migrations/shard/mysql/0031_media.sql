-- Files of a conversation: uploaded, checked, and used by its messages.
CREATE TABLE IF NOT EXISTS media (
    conversation_id BINARY(16)    NOT NULL,
    id              BINARY(16)    NOT NULL, -- begins with the key of the conversation's owner, as conversation_id does
    uploader        VARBINARY(64) NOT NULL,
    state           TINYINT       NOT NULL, -- 1 pending, 2 ready, 3 rejected, 4 removed: its objects are being deleted
    kind            TINYINT       NOT NULL, -- 1 image, 2 voice, 3 file
    file_name       VARCHAR(255)  NOT NULL,
    content_type    VARCHAR(127)  NOT NULL,
    bytes           BIGINT        NOT NULL,
    sha256          BINARY(32)        NULL, -- as declared
    upload_key      VARCHAR(200)  NOT NULL, -- where the client puts it
    upload_id       VARCHAR(1024)     NULL, -- of an upload in parts
    object_key      VARCHAR(200)      NULL, -- where it is once it is ready
    width           INT               NULL,
    height          INT               NULL,
    duration_ms     BIGINT            NULL,
    placeholder     VARCHAR(64)       NULL,
    reason          VARCHAR(32)       NULL, -- why it was rejected
    created_at      BIGINT        NOT NULL,
    expires_at      BIGINT            NULL, -- when it is collected; NULL while a message uses it
    PRIMARY KEY (conversation_id, id),
    UNIQUE KEY media_id (id),
    KEY media_uploader (uploader, bytes),
    KEY media_expires (expires_at),
    KEY media_removed (conversation_id, state)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
