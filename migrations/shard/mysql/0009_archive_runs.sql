-- Where archived messages are: consecutive seqs of a conversation in one frame of one segment (INV-TIER).
CREATE TABLE IF NOT EXISTS archive_runs (
    conversation_id BINARY(16) NOT NULL,
    last_seq        BIGINT     NOT NULL,
    generation      BIGINT     NOT NULL, -- the segment's number; keeps rows of different segments apart
    first_seq       BIGINT     NOT NULL,
    last_rev        BIGINT     NOT NULL, -- the greatest rev of its messages
    last_at         BIGINT     NOT NULL, -- when the latest of its messages was sent
    segment         BINARY(16)     NULL, -- NULL: dropped when its retention ended
    frame_offset    BIGINT     NOT NULL,
    frame_length    BIGINT     NOT NULL,
    frame_digest    BIGINT     NOT NULL, -- XXH3-64 of the frame's compressed bytes
    PRIMARY KEY (conversation_id, last_seq, generation),
    KEY archive_runs_rev (conversation_id, last_rev),
    KEY archive_runs_segment (segment, conversation_id, last_seq)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
