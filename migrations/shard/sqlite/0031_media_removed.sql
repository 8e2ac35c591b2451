CREATE INDEX IF NOT EXISTS media_removed ON media (conversation_id, state)
