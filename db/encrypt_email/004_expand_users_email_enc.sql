-- dbsec: phase expand
--
-- app.users.email gets an encrypted place: email_enc. The running release goes on with email; the next one writes
-- both while the two run side by side (dbsec.migrations.dual_write), and email_enc alone once the old one is gone.
-- So email may be NULL from here on, where email_enc is not.
-- Where a release that does not encrypt changes email, a trigger empties email_enc: old ciphertext must not be read
-- for it, and the backfill fills it again.
-- A CHECK or NOT NULL that fails writes the whole row to the server log, the plaintext with it: the trigger refuses
-- first, in the same words, without a value. What it cannot refuse first is a duplicate in a unique index:
-- PostgreSQL logs its key. log_error_verbosity = terse leaves out both.
-- Each statement is a transaction of its own; running the file again changes nothing.

-- ACCESS EXCLUSIVE for a moment, no row is read or written
SET lock_timeout = '500ms';
SET statement_timeout = '5s';
ALTER TABLE app.users ADD COLUMN IF NOT EXISTS email_enc bytea;

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
  RETURN NEW;
END $dbsec$;

-- SHARE ROW EXCLUSIVE for a moment: writers wait, readers do not
CREATE OR REPLACE TRIGGER zz_dbsec_users_email_enc BEFORE INSERT OR UPDATE ON app.users
FOR EACH ROW EXECUTE FUNCTION app.zz_dbsec_users_email_enc();

-- what a run that broke off has left
ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_email_enc_or_email;

-- the net below the trigger; ACCESS EXCLUSIVE for a moment
ALTER TABLE app.users ADD CONSTRAINT users_email_enc_or_email CHECK (email IS NOT NULL OR email_enc IS NOT NULL) NOT VALID;

-- the next release will stop writing it
ALTER TABLE app.users ALTER COLUMN email DROP NOT NULL;

-- SHARE UPDATE EXCLUSIVE while it is built: all read and write. What a failed try left goes first
SET lock_timeout = 0;
SET statement_timeout = '30min';
DROP INDEX CONCURRENTLY IF EXISTS app.users_tenant_email_enc_idx;

CREATE INDEX CONCURRENTLY IF NOT EXISTS users_tenant_email_enc_idx ON app.users (tenant_id, email_enc);
