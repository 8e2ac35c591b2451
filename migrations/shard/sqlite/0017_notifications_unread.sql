CREATE INDEX IF NOT EXISTS notifications_unread ON notifications (user_key, user_id, read_at, number)
