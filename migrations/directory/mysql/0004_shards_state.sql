-- What is known of each shard's database, and which in the row of those that have been it this one is.
ALTER TABLE shards
    ADD COLUMN state       VARCHAR(16) NOT NULL DEFAULT 'unmarked', -- unmarked (by an older version), joining, joined
    ADD COLUMN incarnation BIGINT      NOT NULL DEFAULT 1
