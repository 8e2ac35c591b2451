-- What was written to while its range is being moved away: the mover still has to copy it. Written in the transaction of the
-- change.
CREATE TABLE IF NOT EXISTS move_marks (
    kind   TINYINT NOT NULL, -- 1 a conversation (its id), 2 a user (the key and the id)
    entity VARBINARY(80) NOT NULL,
    token  BIGINT NOT NULL, -- random: a mark set again while it is being copied is not cleared
    PRIMARY KEY (kind, entity)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
