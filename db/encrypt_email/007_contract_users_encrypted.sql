-- dbsec: phase contract
--
-- The encrypted columns of app.users take ciphertexts alone: what psql, COPY or a slip of the service would write in
-- clear is refused by the database. A value begins with d5, then version and algorithm (docs/formats.md).
-- Each statement is a transaction of its own; running the file again changes nothing.

SET lock_timeout = '500ms';
SET statement_timeout = '5s';

-- what a run that broke off has left
ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_phone_enc_encrypted;
ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_email_enc_encrypted;

-- ACCESS EXCLUSIVE for a moment, nothing is read: from here on no new row is in clear
ALTER TABLE app.users ADD CONSTRAINT users_phone_enc_encrypted
  CHECK (octet_length(phone_enc) >= 34 AND substr(phone_enc, 1, 2) = '\xd511') NOT VALID;
ALTER TABLE app.users ADD CONSTRAINT users_email_enc_encrypted
  CHECK (octet_length(email_enc) >= 22 AND substr(email_enc, 1, 2) = '\xd512') NOT VALID;

-- SHARE UPDATE EXCLUSIVE while the table is read: all go on
SET statement_timeout = '30min';
ALTER TABLE app.users VALIDATE CONSTRAINT users_phone_enc_encrypted;
ALTER TABLE app.users VALIDATE CONSTRAINT users_email_enc_encrypted;
