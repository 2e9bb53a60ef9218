-- The way back of guardrails.sql, as superuser.

BEGIN;

DROP EVENT TRIGGER IF EXISTS dbsec_guard_lock_timeout;
DROP EVENT TRIGGER IF EXISTS dbsec_guard_index_start;
DROP EVENT TRIGGER IF EXISTS dbsec_guard_index_end;
DROP EVENT TRIGGER IF EXISTS dbsec_guard_rewrite;
DROP EVENT TRIGGER IF EXISTS dbsec_guard_drop;
DROP SCHEMA IF EXISTS dbsec_guard CASCADE;

COMMIT;
