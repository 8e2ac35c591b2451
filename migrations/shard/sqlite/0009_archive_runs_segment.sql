CREATE INDEX IF NOT EXISTS archive_runs_segment ON archive_runs (segment, conversation_id, last_seq)
