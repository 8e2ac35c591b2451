CREATE INDEX IF NOT EXISTS archive_runs_rev ON archive_runs (conversation_id, last_rev)
