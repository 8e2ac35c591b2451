-- Who may run a job on a range: archive jobs and moves exclude each other.
CREATE TABLE IF NOT EXISTS leases (
    range_start BINARY(8)    NOT NULL,
    holder      VARCHAR(128) NOT NULL,
    generation  BIGINT       NOT NULL, -- grows with every holder; checked by everything the holder commits
    expires_at  BIGINT       NOT NULL,
    PRIMARY KEY (range_start)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
