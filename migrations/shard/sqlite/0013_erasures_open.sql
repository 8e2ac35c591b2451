CREATE INDEX IF NOT EXISTS erasures_open ON erasures (erased_at, rewritten_at, requested_at)
