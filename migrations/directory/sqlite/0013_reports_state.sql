CREATE INDEX IF NOT EXISTS reports_state ON reports (state, id)
