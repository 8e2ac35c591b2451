-- Whose lists the relay still has to tell about a change that is only theirs. Written in the transaction of the change.
-- What every member's list has to be told is marked in the conversation's head.
CREATE TABLE IF NOT EXISTS list_marks (
    conversation_id BINARY(16)    NOT NULL,
    user_id         VARBINARY(64) NOT NULL,
    token           BIGINT        NOT NULL, -- random: a mark set again while it is being relayed is not cleared
    PRIMARY KEY (conversation_id, user_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
