-- How long writers waited, in milliseconds.
ALTER TABLE moves ADD COLUMN freeze_ms INTEGER NULL
