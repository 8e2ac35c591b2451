-- The segments that this shard wrote or names: the intent before the upload, and what became of it (INV-OBJECT).
CREATE TABLE IF NOT EXISTS archive_segments (
    id         BINARY(16)  NOT NULL,
    generation BIGINT      NOT NULL,
    state      VARCHAR(16) NOT NULL, -- writing, published, settled, superseded, deleting
    bytes      BIGINT      NOT NULL,
    messages   BIGINT      NOT NULL,
    created_at BIGINT      NOT NULL,
    changed_at BIGINT      NOT NULL, -- when it came into its state
    PRIMARY KEY (id),
    KEY archive_segments_state (state, changed_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
