CREATE INDEX IF NOT EXISTS members_rev ON members (conversation_id, rev)
