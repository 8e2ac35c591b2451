-- The greatest number of a segment when the content was unnamed: what still holds it has at most this one. NULL in rows from
-- before.
ALTER TABLE erasures ADD COLUMN rewritten_generation INTEGER NULL
