-- Finds the pictures that are to be processed.
ALTER TABLE media ADD KEY media_process_at (process_at)
