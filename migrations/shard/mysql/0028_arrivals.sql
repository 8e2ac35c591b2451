-- Ranges that are being copied to this shard: how far, and by which runner. Changed in the transactions that store the rows.
CREATE TABLE IF NOT EXISTS arrivals (
    job         BINARY(16) NOT NULL,
    range_start BINARY(8) NOT NULL,
    range_end   BINARY(8) NULL, -- NULL: the end of the key space
    runner      BIGINT NOT NULL, -- transactions of an earlier one change nothing
    step        BIGINT NOT NULL, -- how many tables are copied
    position    VARBINARY(255) NOT NULL, -- the last key that was copied of the next one; empty before the first
    copied_rows BIGINT NOT NULL,
    copied_bytes BIGINT NOT NULL,
    PRIMARY KEY (job)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
