-- Deleted messages whose content is still in archived objects, and the receipts of those where it no longer is (INV-ERASE).
CREATE TABLE IF NOT EXISTS erasures (
    conversation_id BINARY(16) NOT NULL,
    seq             BIGINT     NOT NULL, -- 0: the whole conversation
    requested_at    BIGINT     NOT NULL,
    rewritten_at    BIGINT         NULL, -- since when no index names the content
    erased_at       BIGINT         NULL, -- since when no object holds it
    PRIMARY KEY (conversation_id, seq),
    KEY erasures_open (erased_at, rewritten_at, requested_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
