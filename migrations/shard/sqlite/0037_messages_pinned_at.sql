-- When a message was pinned; NULL: it is not.
ALTER TABLE messages ADD COLUMN pinned_at INTEGER NULL
