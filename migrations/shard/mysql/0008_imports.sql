-- How many messages of an imported history are stored; moved in the transaction that stores them.
CREATE TABLE IF NOT EXISTS imports (
    conversation_id BINARY(16) NOT NULL,
    position        BIGINT     NOT NULL,
    PRIMARY KEY (conversation_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
