CREATE INDEX IF NOT EXISTS media_uploader ON media (uploader, bytes)
