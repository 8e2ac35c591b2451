-- What was done to the archive: when, by whom, why, with which result.
CREATE TABLE IF NOT EXISTS archive_jobs (
    id         BINARY(16)   NOT NULL,
    kind       VARCHAR(32)  NOT NULL,
    actor      VARCHAR(128) NOT NULL,
    reason     VARCHAR(255) NOT NULL,
    started_at BIGINT       NOT NULL,
    ended_at   BIGINT           NULL, -- NULL: running, or its process died
    outcome    VARCHAR(255)     NULL, -- done, or what stopped it
    figures    TEXT         NOT NULL, -- as JSON
    PRIMARY KEY (id),
    KEY archive_jobs_started (started_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
