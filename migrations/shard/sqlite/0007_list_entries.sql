-- A user's conversations, on the user's own shard; derived from the conversations by the relay.
CREATE TABLE IF NOT EXISTS list_entries (
    user_key         BLOB    NOT NULL,
    user_id          BLOB    NOT NULL,
    conversation_id  BLOB    NOT NULL,
    kind             INTEGER NOT NULL,
    title            TEXT    NULL,
    member_count     INTEGER NOT NULL,
    first_members    TEXT    NOT NULL,
    head_seq         INTEGER NOT NULL,
    conversation_rev INTEGER NOT NULL,
    read_seq         INTEGER NOT NULL,
    last_sender      BLOB    NULL,
    last_type        INTEGER NULL,
    last_preview     TEXT    NULL,
    last_at          INTEGER NOT NULL,
    relayed          INTEGER NOT NULL, -- 0: its head is read from the conversation's shard
    pinned           INTEGER NOT NULL,
    muted            INTEGER NOT NULL,
    removed          INTEGER NOT NULL,
    rev              INTEGER NOT NULL, -- of the user
    PRIMARY KEY (user_key, user_id, conversation_id)
) WITHOUT ROWID
