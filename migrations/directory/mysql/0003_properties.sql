-- What is fixed for the deployment (key_function), and the version of the map.
CREATE TABLE IF NOT EXISTS properties (
    name  VARCHAR(64)  NOT NULL,
    value VARCHAR(255) NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
