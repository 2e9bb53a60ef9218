CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $dbsec$
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    TRUNCATE {shadow};
    RETURN NULL;
  END IF;
  IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND ROW({new_key})::record *<> ROW({old_key})::record) THEN
    DELETE FROM {shadow} WHERE {is_old};
    -- an old snapshot may not see a row that was copied since: then this is refused (40001), and no ghost stays
    IF NOT FOUND AND current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
      INSERT INTO {shadow} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({old_values}) ON CONFLICT ({key}) DO NOTHING;
      DELETE FROM {shadow} WHERE {is_old};
    END IF;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    -- While the same row is being copied, a unique key beside the primary one would refuse it: so first wait for all.
    INSERT INTO {shadow} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values}) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
      INSERT INTO {shadow} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values})
      ON CONFLICT ({key}) DO {update};
    END IF;
  END IF;
  RETURN NULL;
END $dbsec$;
