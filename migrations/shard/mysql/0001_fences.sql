-- The key ranges this shard owns or owned (INV-OWNER). A writer locks its range's row shared, a move locks it exclusively.
CREATE TABLE IF NOT EXISTS fences (
    range_start BINARY(8)   NOT NULL,
    range_end   BINARY(8)       NULL, -- NULL: the end of the key space
    epoch       BIGINT      NOT NULL,
    state       VARCHAR(16) NOT NULL, -- open, moving, frozen, gone
    PRIMARY KEY (range_start)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
