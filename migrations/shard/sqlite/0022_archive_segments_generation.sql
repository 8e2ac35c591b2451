-- Numbers are given out from the greatest on.
CREATE INDEX IF NOT EXISTS archive_segments_generation ON archive_segments (generation)
