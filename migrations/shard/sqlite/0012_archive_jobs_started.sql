CREATE INDEX IF NOT EXISTS archive_jobs_started ON archive_jobs (started_at)
