-- When and by whom a message was pinned; NULL: it is not.
ALTER TABLE messages
    ADD COLUMN pinned_at BIGINT NULL,
    ADD COLUMN pinned_by VARBINARY(64) NULL
