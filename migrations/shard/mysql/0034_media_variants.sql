-- Pictures: the keys that their smaller forms have, what was made of them (JSON; NULL before), and when it is to be done: the row is
-- the queue, and who works on it has it until then.
ALTER TABLE media
    ADD COLUMN small_key VARCHAR(200) NULL,
    ADD COLUMN large_key VARCHAR(200) NULL,
    ADD COLUMN variants VARCHAR(1000) NULL,
    ADD COLUMN process_at BIGINT NULL
