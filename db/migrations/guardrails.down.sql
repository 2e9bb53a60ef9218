-- The way back of guardrails.sql, as who ran it. The log of overrides goes too: keep dbsec_guard.overrides before.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';
SET LOCAL client_min_messages = warning;

DO $$
DECLARE
  gone text;
BEGIN
  FOR gone IN SELECT evtname FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
               WHERE p.pronamespace = to_regnamespace('dbsec_guard') LOOP
    EXECUTE format('DROP EVENT TRIGGER %I', gone);
  END LOOP;
END $$;
DROP SCHEMA IF EXISTS dbsec_guard CASCADE;

COMMIT;
