-- What is fixed for the deployment (key_function), and the version of the map.
CREATE TABLE IF NOT EXISTS properties (
    name             TEXT    NOT NULL,
    value            TEXT    NOT NULL,
    PRIMARY KEY (name)
) WITHOUT ROWID
