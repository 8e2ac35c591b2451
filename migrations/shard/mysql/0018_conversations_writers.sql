-- Who wrote lately, with their newest message, as JSON: up to there they have read, whatever their row in members says.
ALTER TABLE conversations ADD COLUMN writers TEXT NULL
