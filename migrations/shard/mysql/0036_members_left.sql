-- How a membership with role 0 ended: 1 the member left, 2 and was asked back since; NULL: the member was removed.
ALTER TABLE members ADD COLUMN left_as TINYINT NULL
