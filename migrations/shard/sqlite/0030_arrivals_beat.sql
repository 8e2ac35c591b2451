-- When the rows were changed last, by this machine's clock.
ALTER TABLE arrivals ADD COLUMN beat INTEGER NOT NULL DEFAULT 0
