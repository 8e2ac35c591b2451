-- When a picture is to be processed: the row is the queue, and who works on it has it until then. NULL: nothing is to be done.
ALTER TABLE media ADD COLUMN process_at INTEGER NULL
