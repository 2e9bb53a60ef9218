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
  lost record;
  shared boolean := false;
BEGIN
  FOR lost IN SELECT * FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary LOOP
    shared := true;
    -- too late for DROP INDEX CONCURRENTLY: read_query() was before it
    CONTINUE WHEN tg_tag = 'DROP INDEX' AND dbsec_guard.says_concurrently();
    PERFORM dbsec_guard.refuse_drop(lost.object_type, lost.object_identity, tg_tag);
    IF tg_tag LIKE 'DROP %' AND tg_tag <> 'DROP EXTENSION' AND (lost.original OR lost.object_type = 'table')
       AND lost.object_type IN ('table', 'materialized view', 'index', 'trigger', 'policy', 'rule') THEN
      PERFORM dbsec_guard.refuse_settings(tg_tag, lost.object_identity, true);
    END IF;
  END LOOP;
  IF NOT shared THEN
    PERFORM dbsec_guard.take_back();
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
  RAISE LOG 'dbsec guard "%": override % for "%" until %, opened by "%": %', guard, opened.id, role_name, opened.until,
    opened.opened_by, reason;
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
