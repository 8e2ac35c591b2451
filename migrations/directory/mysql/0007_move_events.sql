-- What happened to moves; rows are only ever added.
CREATE TABLE IF NOT EXISTS move_events (
    job    BINARY(16) NOT NULL,
    number BIGINT NOT NULL, -- 1, 2, 3 …: the move's own
    at     BIGINT NOT NULL,
    actor  VARCHAR(128) NOT NULL,
    event  VARCHAR(64) NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (job, number)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
