-- A message changes half of the head's columns. The statement that writes many heads at once is an INSERT that finds its rows
-- there, and may leave out only columns that have a default.
ALTER TABLE conversations
    ALTER COLUMN kind SET DEFAULT 0,
    ALTER COLUMN created_by SET DEFAULT '',
    ALTER COLUMN created_at SET DEFAULT 0,
    ALTER COLUMN members_rev SET DEFAULT 0,
    ALTER COLUMN member_count SET DEFAULT 0,
    ALTER COLUMN relayed SET DEFAULT 0,
    MODIFY COLUMN first_members TEXT NOT NULL DEFAULT ('[]') -- which MySQL takes only so
