CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS {tag}
BEGIN
  -- a release that does not encrypt wrote another value: what was made of the old one must not be read any more
  IF TG_OP = 'UPDATE' AND {plain_changed}
     AND {cipher_kept} THEN
{forget}
  END IF;
  -- what PostgreSQL itself would refuse with the whole row in the server log is refused here without a value
{refusals}
  RETURN NEW;
END {tag};
