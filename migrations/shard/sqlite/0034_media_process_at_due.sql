CREATE INDEX IF NOT EXISTS media_process_at ON media (process_at)
