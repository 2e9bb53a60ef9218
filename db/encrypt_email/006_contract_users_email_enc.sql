-- dbsec: phase contract
--
-- app.users loses email. Run it when the backfill is verified and every release reads email_enc alone.
-- The plaintext is then gone from every query, and not from the disk. It still stands in the table's file and in
-- that of pg_statistic, in old WAL, in standbys and backups. After this file: dbsec migrate rewrite app.users; then
-- expire WAL and backups of before; then prove it: dbsec migrate residue.

-- from here on no row comes without ciphertext; refused without a value in the log
SET lock_timeout = '500ms';
SET statement_timeout = '5s';
CREATE OR REPLACE FUNCTION app.zz_dbsec_users_email_enc() RETURNS trigger
LANGUAGE plpgsql SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $dbsec$
BEGIN
  -- a release that does not encrypt wrote another value: what was made of the old one must not be read any more
  IF TG_OP = 'UPDATE' AND NEW.email IS DISTINCT FROM OLD.email AND NEW.email IS NOT NULL
     AND NEW.email_enc IS NOT DISTINCT FROM OLD.email_enc THEN
    NEW.email_enc := NULL;
  END IF;
  -- what PostgreSQL itself would refuse with the whole row in the server log is refused here without a value
  IF NEW.tenant_id IS NULL THEN
    RAISE EXCEPTION USING MESSAGE = 'null value in column "tenant_id" of relation "users" violates not-null constraint',
      ERRCODE = 'not_null_violation', COLUMN = 'tenant_id', SCHEMA = 'app', TABLE = 'users';
  END IF;
  IF NEW.name IS NULL THEN
    RAISE EXCEPTION USING MESSAGE = 'null value in column "name" of relation "users" violates not-null constraint',
      ERRCODE = 'not_null_violation', COLUMN = 'name', SCHEMA = 'app', TABLE = 'users';
  END IF;
  IF NEW.created_at IS NULL THEN
    RAISE EXCEPTION USING MESSAGE = 'null value in column "created_at" of relation "users" violates not-null constraint',
      ERRCODE = 'not_null_violation', COLUMN = 'created_at', SCHEMA = 'app', TABLE = 'users';
  END IF;
  IF NEW.phone_enc IS NULL THEN
    RAISE EXCEPTION USING MESSAGE = 'null value in column "phone_enc" of relation "users" violates not-null constraint',
      ERRCODE = 'not_null_violation', COLUMN = 'phone_enc', SCHEMA = 'app', TABLE = 'users';
  END IF;
  IF NEW.phone_bidx IS NULL THEN
    RAISE EXCEPTION USING MESSAGE = 'null value in column "phone_bidx" of relation "users" violates not-null constraint',
      ERRCODE = 'not_null_violation', COLUMN = 'phone_bidx', SCHEMA = 'app', TABLE = 'users';
  END IF;
  IF (NEW.email IS NOT NULL OR NEW.email_enc IS NOT NULL) IS FALSE THEN
    RAISE EXCEPTION USING MESSAGE = 'new row for relation "users" violates check constraint "users_email_enc_or_email"',
      ERRCODE = 'check_violation', CONSTRAINT = 'users_email_enc_or_email', SCHEMA = 'app', TABLE = 'users';
  END IF;
  IF (NEW.email_enc IS NOT NULL) IS FALSE THEN
    RAISE EXCEPTION USING MESSAGE = 'new row for relation "users" violates check constraint "users_email_enc_present"',
      ERRCODE = 'check_violation', CONSTRAINT = 'users_email_enc_present', SCHEMA = 'app', TABLE = 'users';
  END IF;
  RETURN NEW;
END $dbsec$;

-- what a run that broke off has left
ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_email_enc_present;

-- ACCESS EXCLUSIVE for a moment, no row is read or written
ALTER TABLE app.users ADD CONSTRAINT users_email_enc_present CHECK (email_enc IS NOT NULL) NOT VALID;

-- SHARE UPDATE EXCLUSIVE while the rows are read, for minutes if need be: all go on
SET statement_timeout = '30min';
ALTER TABLE app.users VALIDATE CONSTRAINT users_email_enc_present;

-- the valid constraint is proof: no row is read
SET statement_timeout = '5s';
ALTER TABLE app.users ALTER COLUMN email_enc SET NOT NULL;

ALTER TABLE app.users DROP CONSTRAINT users_email_enc_present;

-- ACCESS EXCLUSIVE for a moment; whatever stood on email goes with it
BEGIN;
DROP TRIGGER IF EXISTS zz_dbsec_users_email_enc ON app.users;
ALTER TABLE app.users DROP COLUMN IF EXISTS email;
COMMIT;

DROP FUNCTION IF EXISTS app.zz_dbsec_users_email_enc();
