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

CREATE OR REPLACE FUNCTION dbsec_guard.index_start() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  big constant bigint := pg_size_bytes('100MB');
  -- comments are no part of the statement
  said constant text := regexp_replace(current_query(), '/\*.*?\*/|--[^\n]*', ' ', 'g');
  -- CREATE [UNIQUE] INDEX [[IF NOT EXISTS] name] ON [ONLY] table
  named constant text := substring(said FROM
    '(?i)^\s*create\s+(?:unique\s+)?index\s+(?:(?:if\s+not\s+exists\s+)?(?:"(?:[^"]|"")+"|[\w$]+)\s+)?on\s+(?:only\s+)?((?:"(?:[^"]|"")+"|[\w$]+)(?:\s*\.\s*(?:"(?:[^"]|"")+"|[\w$]+))?)');
  target regclass;
BEGIN
  IF named IS NULL OR said ~* '^\s*create\s+(unique\s+)?index\s+concurrently\y' THEN
    RETURN;
  END IF;
  target := dbsec_guard.named(named);
  IF target IS NOT NULL AND pg_table_size(target) > big THEN
    RAISE EXCEPTION 'CREATE INDEX on % (%) would block every writer until it is built',
        target, pg_size_pretty(pg_table_size(target))
      USING ERRCODE = 'DBG02', HINT = 'CREATE INDEX CONCURRENTLY, outside a transaction and with lock_timeout = 0';
  END IF;
END $$;
