-- The way back of 003_contract_set_not_null.sql, at any of its steps.

SET lock_timeout = '500ms';
SET statement_timeout = '5s';

ALTER TABLE app.users ALTER COLUMN email_normalized DROP NOT NULL;
ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_email_normalized_present;
