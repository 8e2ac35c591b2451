-- A user's rev over the entries of their list.
CREATE TABLE IF NOT EXISTS users (
    user_key BINARY(8)     NOT NULL,
    user_id  VARBINARY(64) NOT NULL,
    rev      BIGINT        NOT NULL,
    PRIMARY KEY (user_key, user_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
