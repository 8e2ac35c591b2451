CREATE INDEX IF NOT EXISTS conversations_marked ON conversations (marked) WHERE marked IS NOT NULL
