-- Who is in a conversation, and their watermarks. A member who left keeps the row, with role 0, for sync.
CREATE TABLE IF NOT EXISTS members (
    conversation_id  BLOB    NOT NULL,
    user_id          BLOB    NOT NULL,
    role             INTEGER NOT NULL, -- 0 left, 1 member, 2 admin, 3 owner
    read_seq         INTEGER NOT NULL,
    delivered_seq    INTEGER NOT NULL,
    rev              INTEGER NOT NULL, -- of the change to the membership
    joined_at        INTEGER NOT NULL,
    PRIMARY KEY (conversation_id, user_id)
) WITHOUT ROWID
