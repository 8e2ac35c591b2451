-- The newest message that mentions members; NULL: none does.
ALTER TABLE conversations ADD COLUMN last_mention INTEGER NULL
