CREATE INDEX IF NOT EXISTS audit_actor ON audit (actor, number)
