-- Conversations that an export of another deployment brought, and at which revs; written with the head they came with.
CREATE TABLE IF NOT EXISTS copied_conversations (
    conversation_id BINARY(16) NOT NULL,
    rev             BIGINT     NOT NULL, -- of the conversation when its export began
    head_rev        BIGINT     NOT NULL, -- of the head as it was stored here; another rev there means a change made here
    PRIMARY KEY (conversation_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
