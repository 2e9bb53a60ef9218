CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $dbsec$
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    TRUNCATE {shadow};
    RETURN NULL;
  END IF;
  IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND ({new_key}) IS DISTINCT FROM ({old_key})) THEN
    DELETE FROM {shadow} WHERE ({key}) = ({old_key});
  END IF;
  IF TG_OP <> 'DELETE' THEN
    INSERT INTO {shadow} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values})
    ON CONFLICT ({key}) DO {update};
  END IF;
  RETURN NULL;
END $dbsec$;
