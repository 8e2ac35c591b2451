-- About how many bytes these have.
ALTER TABLE moves ADD COLUMN expected_bytes INTEGER NULL
