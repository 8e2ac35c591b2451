CREATE INDEX IF NOT EXISTS reports_reporter ON reports (reporter, state)
