CREATE INDEX IF NOT EXISTS media_refs_media ON media_refs (conversation_id, media_id)
