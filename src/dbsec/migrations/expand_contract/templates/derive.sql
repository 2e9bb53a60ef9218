CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS {tag}
BEGIN
  -- as long as nobody has set it to something else, it follows the columns that it is computed from
  IF TG_OP = 'UPDATE' AND {inputs_changed}
     AND {unchanged} AND {was_derived} THEN
    {new} := NULL;
  END IF;
  IF {new} IS NULL THEN
    BEGIN
      {new} := {value};
    EXCEPTION WHEN data_exception THEN
      -- what cannot be computed does not stop the running release; the contract finds its row
      {new} := NULL;
    END;
  END IF;
  RETURN NEW;
END {tag};
