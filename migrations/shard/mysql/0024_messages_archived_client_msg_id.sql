-- The client message id of a row that was archived and is hot again: out of the way of newer messages under the same id
-- (INV-IDEM).
ALTER TABLE messages ADD COLUMN archived_client_msg_id VARBINARY(64) NULL
