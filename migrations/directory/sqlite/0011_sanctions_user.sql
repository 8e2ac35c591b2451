CREATE INDEX IF NOT EXISTS sanctions_user ON sanctions (user_id, id)
