-- The one server of a cluster that may write this shard: one row, or none where any server that has the tables may (INV-OWNER).
CREATE TABLE IF NOT EXISTS writer (
    slot   TINYINT      NOT NULL, -- 1
    server VARCHAR(300) NOT NULL, -- its host's name and port
    since  BIGINT       NOT NULL,
    PRIMARY KEY (slot)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
