-- Who is in a conversation, and their watermarks. A member who left keeps the row, with role 0, for sync.
CREATE TABLE IF NOT EXISTS members (
    conversation_id BINARY(16)    NOT NULL,
    user_id         VARBINARY(64) NOT NULL,
    role            TINYINT       NOT NULL, -- 0 left, 1 member, 2 admin, 3 owner
    read_seq        BIGINT        NOT NULL,
    delivered_seq   BIGINT        NOT NULL,
    rev             BIGINT        NOT NULL, -- of the change to the membership
    joined_at       BIGINT        NOT NULL,
    PRIMARY KEY (conversation_id, user_id),
    KEY members_rev (conversation_id, rev)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
