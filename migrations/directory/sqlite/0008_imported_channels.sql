-- Which conversation the import of a channel goes to. A name is that of the channel, after its owner and a NUL if it has
-- been imported for a given one.
CREATE TABLE IF NOT EXISTS imported_channels (
    name            BLOB NOT NULL,
    conversation_id BLOB NOT NULL,
    PRIMARY KEY (name)
) WITHOUT ROWID
