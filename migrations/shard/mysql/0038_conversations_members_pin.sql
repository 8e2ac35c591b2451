-- 1: every member may pin messages; NULL: admins only, in direct conversations both.
ALTER TABLE conversations ADD COLUMN members_pin TINYINT NULL
