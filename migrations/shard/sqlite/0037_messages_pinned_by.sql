-- By whom a message was pinned.
ALTER TABLE messages ADD COLUMN pinned_by BLOB NULL
