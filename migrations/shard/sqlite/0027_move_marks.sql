-- What was written to while its range is being moved away: the mover still has to copy it. Written in the transaction of the
-- change.
CREATE TABLE IF NOT EXISTS move_marks (
    kind   INTEGER NOT NULL, -- 1 a conversation (its id), 2 a user (the key and the id)
    entity BLOB NOT NULL,
    token  INTEGER NOT NULL, -- random: a mark set again while it is being copied is not cleared
    PRIMARY KEY (kind, entity)
) WITHOUT ROWID
