CREATE INDEX IF NOT EXISTS moves_state ON moves (state)
