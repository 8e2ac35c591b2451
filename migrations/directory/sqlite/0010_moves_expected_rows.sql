-- About how many rows a move copies; NULL before it begins.
ALTER TABLE moves ADD COLUMN expected_rows INTEGER NULL
