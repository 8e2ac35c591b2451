CREATE INDEX IF NOT EXISTS reports_forget ON reports (forget_at)
