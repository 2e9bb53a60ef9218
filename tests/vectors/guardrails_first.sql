-- Guardrails in the database itself: they see what no linter can, psql at 3 a.m., an ORM, a DO block.
-- Run as superuser in each database; again as often as you like. PostgreSQL 15 to 18, no extension.
--
--   guard                      when               refuses, by SQLSTATE
--   dbsec_guard_lock_timeout   before each DDL    nothing: sets lock_timeout where neither server nor session did
--   dbsec_guard_index_start    CREATE INDEX       DBG02 without CONCURRENTLY on a big table, before any lock is taken
--   dbsec_guard_index_end      CREATE INDEX       DBG02 the same in DO and functions, after the work: it is rolled back
--   dbsec_guard_rewrite        before a rewrite   DBG01 of a big table, before a row is written
--   dbsec_guard_drop           DROP               DBG03 of a protected table, by whatever cascade
--
-- What they cannot see: TRUNCATE, VACUUM FULL, CLUSTER, LOCK TABLE, UPDATE and DELETE raise no event, and of ALTER TABLE
-- no subcommand is known: a scan under ACCESS EXCLUSIVE (SET NOT NULL, ADD CHECK) passes by.
-- None of them writes: a trigger that writes before DDL breaks DROP INDEX CONCURRENTLY. None of them refuses at the end
-- what committed on its way, as CREATE INDEX CONCURRENTLY does: that would leave an invalid index behind.
--
-- To pass one on purpose, as superuser and in one transaction with what it would refuse:
--   ALTER EVENT TRIGGER dbsec_guard_drop DISABLE;  ...  ALTER EVENT TRIGGER dbsec_guard_drop ENABLE ALWAYS;

BEGIN;

-- nobody needs USAGE: the server calls the functions by themselves
CREATE SCHEMA IF NOT EXISTS dbsec_guard;
REVOKE ALL ON SCHEMA dbsec_guard FROM PUBLIC;

CREATE OR REPLACE FUNCTION dbsec_guard.lock_timeout() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  waits constant text := '500ms';
BEGIN
  -- a session that says 0 means it: a runner does so for CREATE INDEX CONCURRENTLY
  IF current_setting('lock_timeout') = '0'
     AND (SELECT source FROM pg_settings WHERE name = 'lock_timeout') <> 'session' THEN
    -- to the end of the transaction; CONCURRENTLY is free of it by its own first commit
    PERFORM set_config('lock_timeout', waits, true);
  END IF;
END $$;

-- search_path stays the session's, for that is where its names lie: hence all else is qualified
CREATE OR REPLACE FUNCTION dbsec_guard.index_start() RETURNS event_trigger
LANGUAGE plpgsql AS $$
DECLARE
  big constant bigint := pg_catalog.pg_size_bytes('100MB');
  -- CREATE [UNIQUE] INDEX [[IF NOT EXISTS] name] ON [ONLY] table
  shape constant text := '\mcreate\s+(?:unique\s+)?index\s+(?!concurrently\M)'
    '(?:(?:if\s+not\s+exists\s+)?(?:"(?:[^"]|"")+"|[\w$]+)\s+)?on\s+(?:only\s+)?'
    '((?:"(?:[^"]|"")+"|[\w$]+)(?:\s*\.\s*(?:"(?:[^"]|"")+"|[\w$]+))?)';
  -- without its comments; one expression for both kinds would be greedy
  said constant text := pg_catalog.regexp_replace(
    pg_catalog.regexp_replace(pg_catalog.current_query(), '/\*.*?\*/', ' ', 'g'), '--[^\n]*', ' ', 'g');
  found text[];
  target regclass;
BEGIN
  FOR found IN SELECT pg_catalog.regexp_matches(said, shape, 'gi') LOOP
    target := pg_catalog.to_regclass(found[1]);
    IF target IS NOT NULL AND pg_catalog.pg_table_size(target) OPERATOR(pg_catalog.>) big THEN
      RAISE EXCEPTION 'CREATE INDEX on % would block every writer until it is built: the table has %', target,
          pg_catalog.pg_size_pretty(pg_catalog.pg_table_size(target))
        USING ERRCODE = 'DBG02', HINT = 'CREATE INDEX CONCURRENTLY, outside a transaction, with lock_timeout = 0';
    END IF;
  END LOOP;
END $$;

CREATE OR REPLACE FUNCTION dbsec_guard.index_end() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  big constant bigint := pg_size_bytes('100MB');
  said constant text := regexp_replace(regexp_replace(current_query(), '/\*.*?\*/', ' ', 'g'), '--[^\n]*', ' ', 'g');
  target regclass;
BEGIN
  -- CONCURRENTLY has committed: to refuse it here would leave its index invalid. It is always said in the query itself,
  -- for it cannot run inside a function.
  IF said ~* '\mconcurrently\M' THEN
    RETURN;
  END IF;
  FOR target IN
    SELECT i.indrelid::regclass FROM pg_event_trigger_ddl_commands() c JOIN pg_index i ON i.indexrelid = c.objid
     WHERE c.command_tag = 'CREATE INDEX' AND NOT c.in_extension AND pg_table_size(i.indrelid) > big
  LOOP
    RAISE EXCEPTION 'CREATE INDEX on % blocked every writer while it was built: it is rolled back', target
      USING ERRCODE = 'DBG02', HINT = 'CREATE INDEX CONCURRENTLY, outside a transaction, with lock_timeout = 0';
  END LOOP;
END $$;

CREATE OR REPLACE FUNCTION dbsec_guard.rewrite() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  big constant bigint := pg_size_bytes('100MB');
  target constant regclass := pg_event_trigger_table_rewrite_oid();
BEGIN
  IF pg_table_size(target) > big
     AND (SELECT relpersistence FROM pg_class WHERE oid = target) <> 't' THEN
    RAISE EXCEPTION '% would write all % of % again while nobody can read it', tg_tag,
        pg_size_pretty(pg_table_size(target)), target
      USING ERRCODE = 'DBG01', HINT = 'add a column, fill it in batches, then change over: expand, backfill, contract';
  END IF;
END $$;

CREATE OR REPLACE FUNCTION dbsec_guard.drop() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  protected constant text[] := ARRAY['app.tenants', 'app.users', 'app.orders', 'app.idempotency_keys'];
  lost text;
BEGIN
  FOR lost IN
    SELECT object_identity FROM pg_event_trigger_dropped_objects()
     WHERE object_type = 'table' AND NOT is_temporary AND object_identity = ANY (protected)
  LOOP
    RAISE EXCEPTION '% is protected: % would drop it', lost, tg_tag
      USING ERRCODE = 'DBG03', HINT = 'a superuser may DISABLE event trigger dbsec_guard_drop in the same transaction';
  END LOOP;
END $$;

-- ALWAYS: session_replication_role = replica does not pass them by
DROP EVENT TRIGGER IF EXISTS dbsec_guard_lock_timeout;
CREATE EVENT TRIGGER dbsec_guard_lock_timeout ON ddl_command_start EXECUTE FUNCTION dbsec_guard.lock_timeout();
ALTER EVENT TRIGGER dbsec_guard_lock_timeout ENABLE ALWAYS;

DROP EVENT TRIGGER IF EXISTS dbsec_guard_index_start;
CREATE EVENT TRIGGER dbsec_guard_index_start ON ddl_command_start WHEN TAG IN ('CREATE INDEX')
  EXECUTE FUNCTION dbsec_guard.index_start();
ALTER EVENT TRIGGER dbsec_guard_index_start ENABLE ALWAYS;

DROP EVENT TRIGGER IF EXISTS dbsec_guard_index_end;
CREATE EVENT TRIGGER dbsec_guard_index_end ON ddl_command_end WHEN TAG IN ('CREATE INDEX')
  EXECUTE FUNCTION dbsec_guard.index_end();
ALTER EVENT TRIGGER dbsec_guard_index_end ENABLE ALWAYS;

DROP EVENT TRIGGER IF EXISTS dbsec_guard_rewrite;
CREATE EVENT TRIGGER dbsec_guard_rewrite ON table_rewrite EXECUTE FUNCTION dbsec_guard.rewrite();
ALTER EVENT TRIGGER dbsec_guard_rewrite ENABLE ALWAYS;

DROP EVENT TRIGGER IF EXISTS dbsec_guard_drop;
CREATE EVENT TRIGGER dbsec_guard_drop ON sql_drop EXECUTE FUNCTION dbsec_guard.drop();
ALTER EVENT TRIGGER dbsec_guard_drop ENABLE ALWAYS;

COMMIT;
