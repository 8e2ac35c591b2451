-- What the relay still has to tell to members' lists. Written in the transaction that changes the conversation.
CREATE TABLE IF NOT EXISTS list_marks (
    conversation_id  BLOB    NOT NULL,
    user_id          BLOB    NOT NULL, -- empty: every member
    token            INTEGER NOT NULL, -- random: a mark set again while it is being relayed is not cleared
    PRIMARY KEY (conversation_id, user_id)
) WITHOUT ROWID
