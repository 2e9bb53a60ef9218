-- the refusals that more than one event makes

CREATE FUNCTION dbsec_guard.refuse_settings(tag text, target text, timed boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF timed AND current_setting('statement_timeout') = '0' AND NOT dbsec_guard.in_extension() THEN
    PERFORM dbsec_guard.refuse('statement_timeout',
      format('%s (%s) without a statement_timeout: nothing would end it while it holds its lock', tag, target),
      'SET statement_timeout = ''5s''');
  END IF;
  IF NOT dbsec_guard.is_pinned() AND NOT dbsec_guard.in_extension() THEN
    PERFORM dbsec_guard.refuse('search_path',
      format('%s (%s) under a search_path that the policy does not know: %s', tag, target,
             current_setting('dbsec_guard.search_path', true)),
      'RESET search_path, or write each name with its schema and SET search_path = ''''');
  END IF;
END $$;

CREATE FUNCTION dbsec_guard.refuse_build(tag text, target regclass, does text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF dbsec_guard.bytes(target) > dbsec_guard.max_bytes(target) THEN
    PERFORM dbsec_guard.refuse('index',
      format('%s on %s %s every writer while it builds: the table has %s', tag, target, does,
             pg_size_pretty(dbsec_guard.bytes(target))),
      CASE WHEN tag = 'ALTER TABLE' THEN 'CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT ... USING INDEX'
      WHEN tag = 'CREATE INDEX' AND (SELECT relkind FROM pg_class WHERE oid = target) = 'p'
      THEN 'CREATE INDEX ON ONLY it, CREATE INDEX CONCURRENTLY on each partition, ALTER INDEX ... ATTACH PARTITION'
      ELSE tag || ' ... CONCURRENTLY, outside a transaction, with lock_timeout = 0' END);
  END IF;
END $$;

CREATE FUNCTION dbsec_guard.refuse_drop(tag text, lost text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM dbsec_guard.refuse('drop', format('%s would drop what is protected: %s', tag, lost),
    'SELECT dbsec_guard.override(''drop'', ''why''), as whoever installed the guard');
END $$;
