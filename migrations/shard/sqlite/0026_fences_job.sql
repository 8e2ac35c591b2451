-- The move that changed the fence last; NULL where no move did. A statement of another move finds no row to change, so what it
-- left cannot break the next one.
ALTER TABLE fences ADD COLUMN job BLOB NULL
