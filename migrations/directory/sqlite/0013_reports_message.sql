CREATE UNIQUE INDEX IF NOT EXISTS reports_message ON reports (conversation_id, seq, reporter)
