-- A conversation's head: the counters everything else follows from (INV-SEQ, INV-REV).
CREATE TABLE IF NOT EXISTS conversations (
    id            BINARY(16)    NOT NULL,
    kind          TINYINT       NOT NULL, -- 1 direct, 2 group, 3 channel
    title         VARCHAR(255)      NULL,
    metadata      TEXT              NULL,
    created_by    VARBINARY(64) NOT NULL,
    created_at    BIGINT        NOT NULL,
    head_seq      BIGINT        NOT NULL,
    rev           BIGINT        NOT NULL,
    members_rev   BIGINT        NOT NULL, -- of the latest change to who is a member, and in which role
    member_count  BIGINT        NOT NULL,
    relayed       TINYINT       NOT NULL, -- 0: too large; lists read its head here
    first_members TEXT          NOT NULL, -- the ids of the first few members, as JSON, for lists
    last_sender   VARBINARY(64)     NULL,
    last_type     TINYINT           NULL,
    last_preview  VARCHAR(100)      NULL,
    last_at       BIGINT        NOT NULL, -- of the newest message, or the creation
    oldest_hot_at BIGINT            NULL, -- when the oldest message that is not archived was sent
    marked        TINYINT           NULL, -- 1: the relay still has to tell every member's list; else NULL
    deleted_at    BIGINT            NULL,
    PRIMARY KEY (id),
    KEY conversations_oldest_hot (oldest_hot_at),
    KEY conversations_marked (marked)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
