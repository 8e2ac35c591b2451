CREATE UNIQUE INDEX IF NOT EXISTS messages_client_msg_id ON messages (conversation_id, sender_id, client_msg_id)
