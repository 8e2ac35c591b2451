CREATE INDEX IF NOT EXISTS audit_subject ON audit (subject, number)
