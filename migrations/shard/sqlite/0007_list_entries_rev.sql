CREATE INDEX IF NOT EXISTS list_entries_rev ON list_entries (user_key, user_id, rev)
