-- Which members of a direct conversation block the other one, as JSON; NULL where none ever did.
ALTER TABLE conversations ADD COLUMN blocked_by TEXT NULL
