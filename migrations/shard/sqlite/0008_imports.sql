-- How many messages of an imported history are stored; moved in the transaction that stores them.
CREATE TABLE IF NOT EXISTS imports (
    conversation_id  BLOB    NOT NULL,
    position         INTEGER NOT NULL,
    PRIMARY KEY (conversation_id)
) WITHOUT ROWID
