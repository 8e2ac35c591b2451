CREATE INDEX IF NOT EXISTS audit_action ON audit (action, number)
