-- A user's rev over the entries of their list.
CREATE TABLE IF NOT EXISTS users (
    user_key         BLOB    NOT NULL,
    user_id          BLOB    NOT NULL,
    rev              INTEGER NOT NULL,
    PRIMARY KEY (user_key, user_id)
) WITHOUT ROWID
