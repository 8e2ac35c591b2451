CREATE INDEX IF NOT EXISTS reports_conversation ON reports (conversation_id, id)
