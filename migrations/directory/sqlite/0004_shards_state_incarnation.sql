-- Which in the row of the databases that have been the shard this one is.
ALTER TABLE shards ADD COLUMN incarnation INTEGER NOT NULL DEFAULT 1
