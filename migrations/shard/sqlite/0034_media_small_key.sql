-- The key of the small form of a picture.
ALTER TABLE media ADD COLUMN small_key TEXT NULL
