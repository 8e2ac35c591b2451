-- The unread messages that mention the user: their seqs, ascending, with commas between; NULL: none.
ALTER TABLE list_entries ADD COLUMN mentions TEXT NULL
