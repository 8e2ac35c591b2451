-- How fast a move was, for the forecasts of later ones; NULL where it is not known.
ALTER TABLE moves
    ADD COLUMN rows_per_second BIGINT NULL, -- from the beginning of the copy to the commit
    ADD COLUMN freeze_ms       BIGINT NULL  -- how long writers waited
