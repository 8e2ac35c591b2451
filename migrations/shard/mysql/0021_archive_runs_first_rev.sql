-- The smallest rev of a run's messages; NULL in rows from before: not known. Together with last_rev it says, mostly without
-- reading, which of two copies of a message is the newer one (INV-COPY).
ALTER TABLE archive_runs ADD COLUMN first_rev BIGINT NULL
