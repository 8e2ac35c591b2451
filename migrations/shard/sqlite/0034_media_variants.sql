-- What smaller forms of a picture were made, as JSON; NULL before.
ALTER TABLE media ADD COLUMN variants TEXT NULL
