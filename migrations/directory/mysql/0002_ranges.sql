-- The map: which shard owns which keys, since which epoch (INV-OWNER).
CREATE TABLE IF NOT EXISTS ranges (
    range_start BINARY(8)   NOT NULL,
    range_end   BINARY(8)       NULL, -- NULL: the end of the key space
    shard       VARCHAR(64) NOT NULL,
    epoch       BIGINT      NOT NULL,
    PRIMARY KEY (range_start)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
