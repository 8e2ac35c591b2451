CREATE INDEX IF NOT EXISTS archive_segments_state ON archive_segments (state, changed_at)
