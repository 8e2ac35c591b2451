-- What the relay still has to tell to members' lists. Written in the transaction that changes the conversation.
CREATE TABLE IF NOT EXISTS list_marks (
    conversation_id BINARY(16)    NOT NULL,
    user_id         VARBINARY(64) NOT NULL, -- empty: every member
    token           BIGINT        NOT NULL, -- random: a mark set again while it is being relayed is not cleared
    PRIMARY KEY (conversation_id, user_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
