CREATE INDEX IF NOT EXISTS conversations_oldest_hot ON conversations (oldest_hot_at)
