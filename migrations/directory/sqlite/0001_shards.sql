-- The shards by name. Their addresses are in the configuration, so that no secret is here.
CREATE TABLE IF NOT EXISTS shards (
    name             TEXT    NOT NULL,
    added_at         INTEGER NOT NULL,
    PRIMARY KEY (name)
) WITHOUT ROWID
