CREATE UNIQUE INDEX IF NOT EXISTS sanctions_rev ON sanctions (rev)
