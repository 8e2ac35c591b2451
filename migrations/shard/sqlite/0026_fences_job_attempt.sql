-- That move's attempt to freeze; NULL where no move froze the range.
ALTER TABLE fences ADD COLUMN attempt INTEGER NULL
