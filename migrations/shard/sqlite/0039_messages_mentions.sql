-- The ids of the members that a message mentions: a JSON list; NULL: nobody.
ALTER TABLE messages ADD COLUMN mentions TEXT NULL
