-- When the rows were changed last, by the clock of this database: how far its replicas are behind is the difference to theirs.
ALTER TABLE arrivals ADD COLUMN beat BIGINT NOT NULL DEFAULT 0
