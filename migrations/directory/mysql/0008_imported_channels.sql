-- Which conversation the import of a channel goes to. A name is that of the channel, after its owner and a NUL if it has
-- been imported for a given one.
CREATE TABLE IF NOT EXISTS imported_channels (
    name            VARBINARY(1085) NOT NULL,
    conversation_id BINARY(16)      NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
