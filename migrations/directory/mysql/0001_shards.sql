-- The shards by name. Their addresses are in the configuration, so that no secret is here.
CREATE TABLE IF NOT EXISTS shards (
    name     VARCHAR(64) NOT NULL,
    added_at BIGINT      NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
