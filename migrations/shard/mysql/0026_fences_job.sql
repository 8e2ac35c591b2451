-- The move that changed the fence last, and its attempt to freeze; NULL where no move did. A statement of one move, or of an
-- earlier attempt, finds no row to change, so what it left cannot break the next one.
ALTER TABLE fences
    ADD COLUMN job     BINARY(16) NULL,
    ADD COLUMN attempt BIGINT     NULL
