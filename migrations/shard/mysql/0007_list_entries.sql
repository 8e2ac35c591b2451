-- A user's conversations, on the user's own shard; derived from the conversations by the relay.
CREATE TABLE IF NOT EXISTS list_entries (
    user_key        BINARY(8)     NOT NULL,
    user_id         VARBINARY(64) NOT NULL,
    conversation_id BINARY(16)    NOT NULL,
    kind            TINYINT       NOT NULL,
    title           VARCHAR(255)      NULL,
    member_count    BIGINT        NOT NULL,
    first_members   TEXT          NOT NULL,
    head_seq        BIGINT        NOT NULL,
    conversation_rev BIGINT       NOT NULL,
    read_seq        BIGINT        NOT NULL,
    last_sender     VARBINARY(64)     NULL,
    last_type       TINYINT           NULL,
    last_preview    VARCHAR(100)      NULL,
    last_at         BIGINT        NOT NULL,
    relayed         TINYINT       NOT NULL, -- 0: its head is read from the conversation's shard
    pinned          TINYINT       NOT NULL,
    muted           TINYINT       NOT NULL,
    removed         TINYINT       NOT NULL,
    rev             BIGINT        NOT NULL, -- of the user
    PRIMARY KEY (user_key, user_id, conversation_id),
    KEY list_entries_activity (user_key, user_id, relayed, pinned, last_at, conversation_id),
    KEY list_entries_rev (user_key, user_id, rev)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
