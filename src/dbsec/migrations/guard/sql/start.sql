-- before a command; nothing here writes: DROP INDEX CONCURRENTLY must be the first of its transaction to do so

-- The functions that judge have a search_path of their own, so that this one, which has not, notes the session's.
CREATE FUNCTION dbsec_guard.note_path() RETURNS event_trigger
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_catalog.set_config('dbsec_guard.search_path', pg_catalog.current_setting('search_path'), true);
  PERFORM pg_catalog.set_config('dbsec_guard.schemas', pg_catalog.current_schemas(true)::pg_catalog.text, true);
  IF tg_event = 'ddl_command_start' THEN
    PERFORM pg_catalog.set_config('dbsec_guard.told', '', true);
  END IF;
END $$;

-- lock_timeout for each DDL; transaction_timeout (17 and newer) for what may lock a table, unless it says that it lets
-- others work. To the end of the transaction; CONCURRENTLY is free of both by its own first commit.
CREATE FUNCTION dbsec_guard.limit_time() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  long constant boolean := current_setting('server_version_num')::int >= 170000
    AND current_setting('transaction_timeout', true) = '0'
    AND tg_tag ~ '^(ALTER (TABLE|INDEX|VIEW|MATERIALIZED VIEW|POLICY|TRIGGER|DOMAIN|TYPE)|DROP .*|REINDEX'
      '|CREATE (INDEX|TRIGGER|POLICY|RULE))$';
  ours constant boolean := coalesce(current_setting('dbsec_guard.time_limited', true) = 'on', false);
  own text[];
  span interval;
BEGIN
  IF current_setting('lock_timeout') <> '0' AND NOT long THEN
    RETURN;
  END IF;
  -- a session that says 0 means it; whether it said so is told here only, at some 0.4 ms
  own := ARRAY(SELECT name FROM pg_settings WHERE name IN ('lock_timeout', 'transaction_timeout') AND NOT ours
                 AND source IN ('session', 'client'));
  IF current_setting('lock_timeout') = '0' AND NOT 'lock_timeout' = ANY (own) THEN
    PERFORM dbsec_guard.give('lock_timeout', (SELECT value FROM dbsec_guard.settings WHERE name = 'lock_timeout'));
  END IF;
  IF long AND NOT 'transaction_timeout' = ANY (own)
     AND NOT dbsec_guard.is_patient(tg_tag) THEN
    -- beyond the session's statement_timeout, which ends the statement alone and not the session
    span := (SELECT value::interval FROM dbsec_guard.settings WHERE name = 'transaction_timeout')
            + current_setting('statement_timeout')::interval;
    PERFORM dbsec_guard.give('transaction_timeout', (extract(epoch FROM span) * 1000)::bigint || 'ms');
  END IF;
EXCEPTION WHEN OTHERS THEN
  IF sqlstate LIKE 'DBG%' THEN RAISE; END IF;
  RAISE WARNING 'dbsec guard: limit_time() failed, the command goes on without it: % (%)', sqlerrm, sqlstate;
END $$;

CREATE FUNCTION dbsec_guard.give(which text, span text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  CASE dbsec_guard.decide(which)
  WHEN 'enforce' THEN
    PERFORM set_config(which, span, true), set_config('dbsec_guard.time_limited', 'on', true);
  WHEN 'observe' THEN
    RAISE LOG 'dbsec guard "%" observes: DDL without a %', which, which;
    RAISE WARNING 'DDL without a %', which USING HINT = format('SET %s = %L', which, span);
  ELSE NULL;
  END CASE;
END $$;

-- What the text tells: the earliest refusal, before a lock, and the only one that CONCURRENTLY can have.
CREATE FUNCTION dbsec_guard.read_query() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  said record;
BEGIN
  IF tg_tag NOT IN ('CREATE INDEX', 'ALTER TABLE', 'REINDEX', 'DROP INDEX')
     OR tg_tag = 'ALTER TABLE' AND dbsec_guard.settings_hold() THEN
    RETURN;
  END IF;
  FOR said IN
    SELECT s.kind, s.patient, i.type, i.identity,
           dbsec_guard.standing_table('pg_class'::regclass, relation)::regclass AS target
      FROM dbsec_guard.statements(tg_tag) s, dbsec_guard.meant(s.kind, s.name) relation,
           pg_identify_object('pg_class'::regclass, relation, 0) i
  LOOP
    CONTINUE WHEN said.target IS NULL;
    PERFORM dbsec_guard.refuse_settings(tg_tag, said.target::text, NOT said.patient);
    IF tg_tag IN ('CREATE INDEX', 'REINDEX') AND NOT said.patient
       -- of ONLY a partitioned table nothing is built
       AND NOT (said.kind = 'only' AND (SELECT relkind FROM pg_class WHERE oid = said.target) = 'p') THEN
      PERFORM dbsec_guard.refuse_build(tg_tag, said.target, 'would block');
    ELSIF tg_tag = 'DROP INDEX' AND EXISTS (SELECT FROM dbsec_guard.protected
                                             WHERE object_type = said.type AND object_identity = said.identity) THEN
      PERFORM dbsec_guard.refuse_drop(tg_tag, format('%s %s', said.type, said.identity));
    END IF;
  END LOOP;
EXCEPTION WHEN OTHERS THEN
  IF sqlstate LIKE 'DBG%' THEN RAISE; END IF;
  RAISE WARNING 'dbsec guard: read_query() failed, the command goes on without it: % (%)', sqlerrm, sqlstate;
END $$;
