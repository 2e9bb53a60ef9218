-- The way back of 001_expand_add_nullable_col.sql. What goes is made from email, so that nothing is lost.

SET lock_timeout = '500ms';
SET statement_timeout = '5s';

DROP TRIGGER IF EXISTS users_normalize_email ON app.users;
DROP FUNCTION IF EXISTS app.users_normalize_email();
ALTER TABLE app.users DROP COLUMN IF EXISTS email_normalized;
