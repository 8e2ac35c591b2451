-- Which database of which deployment this is: one row. Whoever connects asks for it first (INV-OWNER).
CREATE TABLE IF NOT EXISTS identity (
    slot        INTEGER NOT NULL, -- 1
    deployment  BLOB    NOT NULL,
    role        TEXT    NOT NULL, -- directory, shard
    shard       TEXT    NOT NULL, -- its name; empty for the directory
    incarnation INTEGER NOT NULL, -- counts the databases that were this shard, one after the other
    since       INTEGER NOT NULL,
    PRIMARY KEY (slot)
)
