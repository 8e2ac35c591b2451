-- The key of the large form of a picture.
ALTER TABLE media ADD COLUMN large_key TEXT NULL
