-- XXH3-64 of the request that made the conversation under an Idempotency-Key; NULL without a key. Written once.
ALTER TABLE conversations ADD COLUMN request_digest BIGINT NULL
