-- The way back of expand of app.users.phone_enc, once no release writes it. Rows that have phone_enc alone stop it
-- before anything is dropped: decrypt them first.

-- what a run that broke off has left
SET lock_timeout = '500ms';
SET statement_timeout = '5s';
ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_phone_present;

-- ACCESS EXCLUSIVE for a moment, no row is read or written
ALTER TABLE app.users ADD CONSTRAINT users_phone_present CHECK (phone IS NOT NULL) NOT VALID;

-- SHARE UPDATE EXCLUSIVE while the rows are read, for minutes if need be: all go on
SET statement_timeout = '30min';
ALTER TABLE app.users VALIDATE CONSTRAINT users_phone_present;

-- the valid constraint is proof: no row is read
SET statement_timeout = '5s';
ALTER TABLE app.users ALTER COLUMN phone SET NOT NULL;

DROP TRIGGER IF EXISTS zz_dbsec_users_phone_enc ON app.users;

DROP FUNCTION IF EXISTS app.zz_dbsec_users_phone_enc();

ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_phone_enc_or_phone;

ALTER TABLE app.users DROP COLUMN IF EXISTS phone_enc, DROP COLUMN IF EXISTS phone_bidx;

ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_phone_present;
