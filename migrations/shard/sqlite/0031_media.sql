-- Files of a conversation: uploaded, checked, and used by its messages.
CREATE TABLE IF NOT EXISTS media (
    conversation_id BLOB    NOT NULL,
    id              BLOB    NOT NULL, -- begins with the key of the conversation's owner, as conversation_id does
    uploader        BLOB    NOT NULL,
    state           INTEGER NOT NULL, -- 1 pending, 2 ready, 3 rejected, 4 removed: its objects are being deleted
    kind            INTEGER NOT NULL, -- 1 image, 2 voice, 3 file
    file_name       TEXT    NOT NULL,
    content_type    TEXT    NOT NULL,
    bytes           INTEGER NOT NULL,
    sha256          BLOB        NULL, -- as declared
    upload_key      TEXT    NOT NULL, -- where the client puts it
    upload_id       TEXT        NULL, -- of an upload in parts
    object_key      TEXT        NULL, -- where it is once it is ready
    width           INTEGER     NULL,
    height          INTEGER     NULL,
    duration_ms     INTEGER     NULL,
    placeholder     TEXT        NULL,
    reason          TEXT        NULL, -- why it was rejected
    created_at      INTEGER NOT NULL,
    expires_at      INTEGER     NULL, -- when it is collected; NULL while a message uses it
    PRIMARY KEY (conversation_id, id)
) WITHOUT ROWID
