-- The unread messages that mention the user: their seqs, ascending, with commas between; NULL: none.
ALTER TABLE list_entries ADD COLUMN mentions VARCHAR(2000) NULL
