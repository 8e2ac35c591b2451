CREATE INDEX IF NOT EXISTS list_entries_activity ON list_entries (user_key, user_id, relayed, pinned, last_at, conversation_id)
