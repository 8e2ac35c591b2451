CREATE INDEX IF NOT EXISTS messages_rev ON messages (conversation_id, rev)
