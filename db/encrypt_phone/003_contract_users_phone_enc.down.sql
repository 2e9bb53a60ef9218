-- The way back of contract from any step before the column was dropped; after it the plaintext is gone.

-- stops here once the old side is gone: the rest must stay
SET lock_timeout = '500ms';
SET statement_timeout = '5s';
SELECT phone FROM app.users LIMIT 0;

ALTER TABLE app.users ALTER COLUMN phone_enc DROP NOT NULL;

ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_phone_enc_present;

ALTER TABLE app.users ALTER COLUMN phone_bidx DROP NOT NULL;

ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_phone_bidx_present;

CREATE OR REPLACE FUNCTION app.zz_dbsec_users_phone_enc() RETURNS trigger
LANGUAGE plpgsql SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $dbsec$
BEGIN
  -- a release that does not encrypt wrote another value: what was made of the old one must not be read any more
  IF TG_OP = 'UPDATE' AND NEW.phone IS DISTINCT FROM OLD.phone AND NEW.phone IS NOT NULL
     AND NEW.phone_enc IS NOT DISTINCT FROM OLD.phone_enc THEN
    NEW.phone_enc := NULL;
    NEW.phone_bidx := NULL;
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
  IF NEW.email IS NULL THEN
    RAISE EXCEPTION USING MESSAGE = 'null value in column "email" of relation "users" violates not-null constraint',
      ERRCODE = 'not_null_violation', COLUMN = 'email', SCHEMA = 'app', TABLE = 'users';
  END IF;
  IF NEW.created_at IS NULL THEN
    RAISE EXCEPTION USING MESSAGE = 'null value in column "created_at" of relation "users" violates not-null constraint',
      ERRCODE = 'not_null_violation', COLUMN = 'created_at', SCHEMA = 'app', TABLE = 'users';
  END IF;
  IF (NEW.phone IS NOT NULL OR NEW.phone_enc IS NOT NULL) IS FALSE THEN
    RAISE EXCEPTION USING MESSAGE = 'new row for relation "users" violates check constraint "users_phone_enc_or_phone"',
      ERRCODE = 'check_violation', CONSTRAINT = 'users_phone_enc_or_phone', SCHEMA = 'app', TABLE = 'users';
  END IF;
  RETURN NEW;
END $dbsec$;
