CREATE INDEX IF NOT EXISTS media_expires ON media (expires_at)
