-- Where archived messages are: consecutive seqs of a conversation in one frame of one segment (INV-TIER).
CREATE TABLE IF NOT EXISTS archive_runs (
    conversation_id BLOB    NOT NULL,
    last_seq        INTEGER NOT NULL,
    generation      INTEGER NOT NULL, -- the segment's number; keeps rows of different segments apart
    first_seq       INTEGER NOT NULL,
    last_rev        INTEGER NOT NULL, -- the greatest rev of its messages
    last_at         INTEGER NOT NULL, -- when the latest of its messages was sent
    segment         BLOB        NULL, -- NULL: dropped when its retention ended
    frame_offset    INTEGER NOT NULL,
    frame_length    INTEGER NOT NULL,
    frame_digest    INTEGER NOT NULL, -- XXH3-64 of the frame's compressed bytes
    PRIMARY KEY (conversation_id, last_seq, generation)
) WITHOUT ROWID
