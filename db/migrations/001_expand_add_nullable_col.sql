-- dbsec: phase expand
--
-- app.users gets email_normalized: the e-mail address as it is compared (no outer blanks, small letters).
-- The release that runs today does not know the column: it is nullable, and a trigger fills it for every writer.
-- Each statement is a transaction of its own; running the file again changes nothing.

-- ACCESS EXCLUSIVE for a moment, no rewrite: whoever cannot have the lock at once tries again later
SET lock_timeout = '500ms';
SET statement_timeout = '5s';

ALTER TABLE app.users ADD COLUMN IF NOT EXISTS email_normalized text;

CREATE OR REPLACE FUNCTION app.users_normalize_email() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW.email_normalized := lower(btrim(NEW.email));
  RETURN NEW;
END $$;

-- SHARE ROW EXCLUSIVE for a moment: writers wait, readers do not
CREATE OR REPLACE TRIGGER users_normalize_email BEFORE INSERT OR UPDATE OF email, email_normalized ON app.users
FOR EACH ROW EXECUTE FUNCTION app.users_normalize_email();
