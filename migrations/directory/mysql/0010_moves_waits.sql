-- What a move is about to copy, how fast it may, and what its runner waits for.
ALTER TABLE moves
    ADD COLUMN expected_rows  BIGINT NULL, -- about; NULL before it begins
    ADD COLUMN expected_bytes BIGINT NULL,
    ADD COLUMN throttle       BIGINT NULL, -- rows a second; NULL: as many as it can
    ADD COLUMN waits          TEXT   NULL  -- JSON; NULL: it waits for nothing
