-- 1: messages of it are answered, or were.
ALTER TABLE conversations ADD COLUMN threaded INTEGER NULL
