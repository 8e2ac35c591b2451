-- Which database of which deployment this is: one row. Whoever connects asks for it first (INV-OWNER).
CREATE TABLE IF NOT EXISTS identity (
    slot        TINYINT     NOT NULL, -- 1
    deployment  BINARY(16)  NOT NULL,
    role        VARCHAR(16) NOT NULL, -- directory, shard
    shard       VARCHAR(64) NOT NULL, -- its name; empty for the directory
    incarnation BIGINT      NOT NULL, -- counts the databases that were this shard, one after the other
    since       BIGINT      NOT NULL,
    PRIMARY KEY (slot)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
