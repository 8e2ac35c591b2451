-- What a move's runner waits for, as JSON; NULL: for nothing.
ALTER TABLE moves ADD COLUMN waits TEXT NULL
