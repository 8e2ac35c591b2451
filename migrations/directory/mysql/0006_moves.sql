-- Moves of ranges between shards: each row is a job that any process can go on with, and decides what the fences of both shards
-- have to say (INV-OWNER).
CREATE TABLE IF NOT EXISTS moves (
    id           BINARY(16) NOT NULL,
    range_start  BINARY(8) NOT NULL,
    range_end    BINARY(8) NULL, -- NULL: the end of the key space
    source       VARCHAR(64) NOT NULL,
    target       VARCHAR(64) NOT NULL,
    epoch        BIGINT NOT NULL, -- of the range on the source
    state        VARCHAR(16) NOT NULL, -- copying, catching_up, frozen, committed, draining, done, aborting, aborted, reversed
    attempt      BIGINT NOT NULL, -- counts the freezes
    frozen_until BIGINT NULL, -- by the clock of this database; a freeze is not committed after that
    runner       BIGINT NOT NULL, -- counts the processes that worked on it
    runner_name  VARCHAR(128) NOT NULL,
    runner_until BIGINT NOT NULL, -- when another process may take it over, by the same clock
    paused       TINYINT NOT NULL,
    keep_until   BIGINT NULL, -- until when the source keeps its rows after the commit
    actor        VARCHAR(128) NOT NULL,
    reason       VARCHAR(255) NOT NULL,
    created_at   BIGINT NOT NULL,
    changed_at   BIGINT NOT NULL, -- when it came into its state
    PRIMARY KEY (id),
    KEY moves_state (state)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
