-- The way back of expand of app.users.email_enc, once no release writes it. Rows that have email_enc alone stop it
-- before anything is dropped: decrypt them first.

-- what a run that broke off has left
SET lock_timeout = '500ms';
SET statement_timeout = '5s';
ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_email_present;

-- ACCESS EXCLUSIVE for a moment, no row is read or written
ALTER TABLE app.users ADD CONSTRAINT users_email_present CHECK (email IS NOT NULL) NOT VALID;

-- SHARE UPDATE EXCLUSIVE while the rows are read, for minutes if need be: all go on
SET statement_timeout = '30min';
ALTER TABLE app.users VALIDATE CONSTRAINT users_email_present;

-- the valid constraint is proof: no row is read
SET statement_timeout = '5s';
ALTER TABLE app.users ALTER COLUMN email SET NOT NULL;

DROP TRIGGER IF EXISTS zz_dbsec_users_email_enc ON app.users;

DROP FUNCTION IF EXISTS app.zz_dbsec_users_email_enc();

ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_email_enc_or_email;

ALTER TABLE app.users DROP COLUMN IF EXISTS email_enc;

ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_email_present;
