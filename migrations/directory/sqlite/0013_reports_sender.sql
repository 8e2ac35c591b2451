CREATE INDEX IF NOT EXISTS reports_sender ON reports (sender, id)
