CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS {tag}
DECLARE
{declared}
  from_new boolean;
BEGIN
  -- a backfill computes the new side by itself
  IF TG_OP = 'UPDATE' AND current_setting('dbsec.backfill', true) = 'on' THEN
    RETURN NEW;
  END IF;
{forth}
  IF {agrees} THEN
    RETURN NEW;
  END IF;
  IF TG_OP = 'INSERT' THEN
    from_new := {new_given};
  ELSIF {new_changed} THEN
    from_new := true;
  ELSIF {old_changed} OR {new_empty} THEN
    from_new := false;
  ELSE
    RETURN NEW;
  END IF;
  IF from_new THEN
{write_old}
  ELSE
{write_new}
  END IF;
  RETURN NEW;
END {tag};
