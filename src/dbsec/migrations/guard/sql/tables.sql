-- what was there before goes first, whichever release made it; a table of ours is kept with its rows
CREATE SCHEMA IF NOT EXISTS dbsec_guard;
REVOKE ALL ON SCHEMA dbsec_guard FROM PUBLIC;

DO $$
DECLARE
  gone text;
BEGIN
  PERFORM pg_advisory_xact_lock(7233470831059233895);
  FOR gone IN
    SELECT format('DROP EVENT TRIGGER %I', evtname) FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
     WHERE p.pronamespace = 'dbsec_guard'::regnamespace
    UNION ALL
    SELECT 'DROP FUNCTION ' || oid::regprocedure FROM pg_proc WHERE pronamespace = 'dbsec_guard'::regnamespace
  LOOP
    EXECUTE gone;
  END LOOP;
END $$;

CREATE TABLE IF NOT EXISTS dbsec_guard.guards (
  name     text PRIMARY KEY,
  sqlstate text NOT NULL,
  mode     text NOT NULL CHECK (mode IN ('observe', 'enforce', 'off'))
);
CREATE TABLE IF NOT EXISTS dbsec_guard.settings (
  name  text PRIMARY KEY,
  value text NOT NULL
);
-- by_policy: made by this file, and by its next run again; a row of yours stays, and wins over the file's
CREATE TABLE IF NOT EXISTS dbsec_guard.table_limits (
  -- schema.table, quoted where SQL needs quotes; a parent's holds for its partitions
  table_name text PRIMARY KEY,
  -- 0: a hot table, on which no work that grows is let through
  max_bytes  bigint NOT NULL CHECK (max_bytes >= 0),
  reason     text NOT NULL DEFAULT '',
  by_policy  boolean NOT NULL DEFAULT false
);
CREATE TABLE IF NOT EXISTS dbsec_guard.protected (
  -- both as pg_event_trigger_dropped_objects() writes them: 'table column', 'app.users.email'
  object_type     text NOT NULL,
  object_identity text NOT NULL,
  by_policy       boolean NOT NULL DEFAULT false,
  PRIMARY KEY (object_type, object_identity)
);
CREATE TABLE IF NOT EXISTS dbsec_guard.lists (
  list      text NOT NULL CHECK (list IN ('search_path', 'tenant_schema', 'not_tenant_table')),
  entry     text NOT NULL,
  by_policy boolean NOT NULL DEFAULT false,
  PRIMARY KEY (list, entry)
);
CREATE TABLE IF NOT EXISTS dbsec_guard.overrides (
  id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  guard     text NOT NULL,
  role_name name NOT NULL,
  reason    text NOT NULL CHECK (btrim(reason) <> ''),
  opened_by name NOT NULL DEFAULT session_user,
  opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  until     timestamptz NOT NULL,
  ended_at  timestamptz
);
