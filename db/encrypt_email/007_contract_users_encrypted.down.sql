-- The way back of 007_contract_users_encrypted.sql, at any of its steps.

SET lock_timeout = '500ms';
SET statement_timeout = '5s';

ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_phone_enc_encrypted;
ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_email_enc_encrypted;
