-- Conversations that an export of another deployment brought, and at which revs; written with the head they came with.
CREATE TABLE IF NOT EXISTS copied_conversations (
    conversation_id BLOB    NOT NULL,
    rev             INTEGER NOT NULL, -- of the conversation when its export began
    head_rev        INTEGER NOT NULL, -- of the head as it was stored here; another rev there means a change made here
    PRIMARY KEY (conversation_id)
) WITHOUT ROWID
