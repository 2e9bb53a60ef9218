-- The way back of contract from any step before the column was dropped; after it the plaintext is gone.

-- stops here once the old side is gone: the rest must stay
SET lock_timeout = '500ms';
SET statement_timeout = '5s';
SELECT email FROM app.users LIMIT 0;

ALTER TABLE app.users ALTER COLUMN email_enc DROP NOT NULL;

ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_email_enc_present;

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
