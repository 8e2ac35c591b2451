-- What moderators imposed on users; rows are only ever added, and marked as lifted.
CREATE TABLE IF NOT EXISTS sanctions (
    id         BIGINT         NOT NULL, -- the rev that imposed it
    rev        BIGINT         NOT NULL, -- 1, 2, 3 …: of the latest change, among all sanctions
    user_id    VARBINARY(64)  NOT NULL,
    kind       VARCHAR(16)    NOT NULL, -- mute, suspend, ban
    ends_at    BIGINT             NULL, -- NULL: when it is lifted
    reason     VARCHAR(500)   NOT NULL,
    imposed_by VARBINARY(64)  NOT NULL,
    imposed_at BIGINT         NOT NULL,
    lifted_by  VARBINARY(64)      NULL,
    lifted_at  BIGINT             NULL,
    PRIMARY KEY (id),
    UNIQUE KEY sanctions_rev (rev),
    KEY sanctions_user (user_id, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
