-- How many rows a second a move may copy; NULL: as many as it can.
ALTER TABLE moves ADD COLUMN throttle INTEGER NULL
