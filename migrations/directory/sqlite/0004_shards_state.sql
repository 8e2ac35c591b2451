-- What is known of each shard's database: unmarked (by an older version), joining, joined.
ALTER TABLE shards ADD COLUMN state TEXT NOT NULL DEFAULT 'unmarked'
