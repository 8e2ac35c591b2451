-- How many rows a second were moved, from the beginning of the copy to the commit, for the forecasts of later moves; NULL where it is not known.
ALTER TABLE moves ADD COLUMN rows_per_second INTEGER NULL
