-- before a rewrite: PostgreSQL's own verdict, and not a row is written yet

CREATE FUNCTION dbsec_guard.judge_rewrite() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target constant regclass := pg_event_trigger_table_rewrite_oid();
  size constant bigint := pg_table_size(target);
BEGIN
  IF size > dbsec_guard.max_bytes(target)
     AND dbsec_guard.standing_table('pg_class'::regclass, target) IS NOT NULL THEN
    PERFORM dbsec_guard.refuse('rewrite',
      format('%s would write all %s of %s again while nobody can read it', tg_tag, pg_size_pretty(size), target),
      'add a column, fill it in batches, then change over: expand, backfill, contract');
  END IF;
EXCEPTION WHEN OTHERS THEN
  IF sqlstate LIKE 'DBG%' THEN RAISE; END IF;
  RAISE WARNING 'dbsec guard: judge_rewrite() failed, the command goes on without it: % (%)', sqlerrm, sqlstate;
END $$;

-- after a drop, by whatever cascade

CREATE FUNCTION dbsec_guard.judge_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target text;
BEGIN
  IF NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary) THEN
    PERFORM dbsec_guard.take_back();
    RETURN;
  -- too late for DROP INDEX CONCURRENTLY: read_query() was before it
  ELSIF tg_tag = 'DROP INDEX' AND dbsec_guard.says_concurrently() THEN
    RETURN;
  END IF;
  PERFORM dbsec_guard.refuse_drop(tg_tag,
      string_agg(object_type || ' ' || object_identity, ', ' ORDER BY object_identity))
    FROM pg_event_trigger_dropped_objects() JOIN dbsec_guard.protected USING (object_type, object_identity)
   WHERE NOT is_temporary HAVING count(*) > 0;
  IF tg_tag LIKE 'DROP %' AND tg_tag <> 'DROP EXTENSION' AND NOT dbsec_guard.settings_hold() THEN
    target := (SELECT object_identity FROM pg_event_trigger_dropped_objects()
                WHERE NOT is_temporary AND (original OR object_type = 'table')
                  AND object_type IN ('table', 'materialized view', 'index', 'trigger', 'policy', 'rule') LIMIT 1);
    IF target IS NOT NULL THEN
      PERFORM dbsec_guard.refuse_settings(tg_tag, target, true);
    END IF;
  END IF;
EXCEPTION WHEN OTHERS THEN
  IF sqlstate LIKE 'DBG%' THEN RAISE; END IF;
  RAISE WARNING 'dbsec guard: judge_drop() failed, the command goes on without it: % (%)', sqlerrm, sqlstate;
END $$;

-- in an emergency: SELECT dbsec_guard.override('drop', 'why', '15 min', 'app_migrator')

CREATE FUNCTION dbsec_guard.override(guard text, reason text, lasts interval DEFAULT '15 min',
                                     role_name name DEFAULT session_user)
RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  most constant interval := (SELECT value FROM dbsec_guard.settings s WHERE s.name = 'max_override');
  opened dbsec_guard.overrides;
BEGIN
  IF NOT EXISTS (SELECT FROM dbsec_guard.guards g WHERE g.name = guard) THEN
    RAISE EXCEPTION 'there is no guard "%"', guard USING ERRCODE = '22023',
      HINT = (SELECT string_agg(g.name, ', ' ORDER BY g.name) FROM dbsec_guard.guards g);
  ELSIF btrim(coalesce(reason, '')) = '' THEN
    RAISE EXCEPTION 'an override needs a reason' USING ERRCODE = '22023';
  ELSIF lasts IS NULL OR lasts <= interval '0' OR lasts > most THEN
    RAISE EXCEPTION 'an override lasts up to %, not %', most, lasts USING ERRCODE = '22023';
  ELSIF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
    RAISE EXCEPTION 'there is no role "%"', role_name USING ERRCODE = '22023';
  END IF;
  INSERT INTO dbsec_guard.overrides (guard, role_name, reason, until)
    VALUES (guard, role_name, reason, clock_timestamp() + lasts) RETURNING * INTO opened;
  RAISE LOG 'dbsec guard "%": override % for "%" until %, opened by "%": %', guard, opened.id, role_name,
    opened.until, opened.opened_by, reason;
  RETURN opened.id;
END $$;

CREATE FUNCTION dbsec_guard.end_override(override bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE dbsec_guard.overrides SET ended_at = clock_timestamp() WHERE id = override AND ended_at IS NULL;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'no override % is open', override USING ERRCODE = '22023';
  END IF;
  RAISE LOG 'dbsec guard: override % was ended by "%"', override, session_user;
END $$;
