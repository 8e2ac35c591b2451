-- Numbers are given out from the greatest on.
ALTER TABLE archive_segments ADD KEY archive_segments_generation (generation)
