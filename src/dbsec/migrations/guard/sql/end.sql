-- after a command, in its transaction: to refuse here rolls it back

-- The settings under which it ran, for what the text did not tell: blocks, functions, what an ORM sends.
CREATE FUNCTION dbsec_guard.judge_settings() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  made record;
  hold constant boolean := dbsec_guard.settings_hold();
  private boolean;  -- NULL: of nothing
BEGIN
  -- a restore ends with REFRESH, long after the guards are there again
  IF tg_tag IN ('COMMENT', 'SECURITY LABEL', 'REFRESH MATERIALIZED VIEW')
     OR hold AND current_setting('dbsec_guard.time_limited', true) IS DISTINCT FROM 'on' THEN
    RETURN;
  END IF;
  FOR made IN
    SELECT object_identity, coalesce(schema_name, '') AS schema, dbsec_guard.standing_table(classid, objid) AS target
      FROM pg_event_trigger_ddl_commands() WHERE NOT in_extension
  LOOP
    private := coalesce(private, true) AND made.target IS NULL AND made.schema = 'pg_temp';
    CONTINUE WHEN hold OR made.target IS NULL AND made.schema IN ('', 'pg_temp') OR dbsec_guard.says_concurrently();
    PERFORM dbsec_guard.refuse_settings(tg_tag, made.object_identity,
      made.target IS NOT NULL AND NOT dbsec_guard.is_patient(tg_tag));
  END LOOP;
  IF private THEN
    PERFORM dbsec_guard.take_back();
  END IF;
EXCEPTION WHEN OTHERS THEN
  IF sqlstate LIKE 'DBG%' THEN RAISE; END IF;
  RAISE WARNING 'dbsec guard: judge_settings() failed, the command goes on without it: % (%)', sqlerrm, sqlstate;
END $$;

-- What was about temporary objects alone leaves the rest of its transaction as it was: an application's, most likely.
CREATE FUNCTION dbsec_guard.take_back() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_setting('dbsec_guard.time_limited', true) = 'on' THEN
    PERFORM set_config(name, '0', true) FROM unnest('{lock_timeout,transaction_timeout}'::text[]) name
      WHERE current_setting(name, true) IS NOT NULL;
  END IF;
END $$;

-- The net under read_query(): what was built, by whatever text. CONCURRENTLY's index is of an earlier transaction.
CREATE FUNCTION dbsec_guard.judge_build() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  made oid;
  built oid;
  target oid;
BEGIN
  IF tg_tag NOT IN ('CREATE INDEX', 'ALTER TABLE', 'REINDEX') THEN
    RETURN;
  END IF;
  FOR made IN
    SELECT objid FROM pg_event_trigger_ddl_commands() WHERE classid = 'pg_class'::regclass AND NOT in_extension
  LOOP
    FOR built, target IN
      SELECT indexrelid, indrelid FROM pg_index WHERE indrelid = made AND tg_tag = 'ALTER TABLE'
      UNION ALL SELECT indexrelid, indrelid FROM pg_index
       WHERE indexrelid = made OR indexrelid = ANY (CASE (SELECT relkind FROM pg_class WHERE oid = made)
               WHEN 'I' THEN ARRAY(SELECT relid::oid FROM pg_partition_tree(made)) END)
    LOOP
      IF dbsec_guard.is_built(built, tg_tag)
         AND dbsec_guard.standing_table('pg_class'::regclass, target) IS NOT NULL THEN
        PERFORM dbsec_guard.refuse_build(tg_tag, target, 'blocked');
      END IF;
    END LOOP;
  END LOOP;
EXCEPTION WHEN OTHERS THEN
  IF sqlstate LIKE 'DBG%' THEN RAISE; END IF;
  RAISE WARNING 'dbsec guard: judge_build() failed, the command goes on without it: % (%)', sqlerrm, sqlstate;
END $$;

-- Did this transaction build the index? Where its file bears another name than a new one, it was taken over.
CREATE FUNCTION dbsec_guard.is_built(index oid, tag text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT age(xmin) BETWEEN -1000000 AND 0 FROM pg_class WHERE oid = index AND relkind = 'i')
         AND (tag = 'REINDEX' OR pg_relation_filenode(index) = index AND dbsec_guard.is_new(index));
END $$;

-- A function with its owner's rights looks names up where its caller says, unless it says so itself.
CREATE FUNCTION dbsec_guard.judge_definer() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  made text;
BEGIN
  FOR made IN
    SELECT c.object_identity FROM pg_event_trigger_ddl_commands() c JOIN pg_proc p ON p.oid = c.objid
     WHERE c.classid = 'pg_proc'::regclass AND NOT c.in_extension AND p.prosecdef AND c.schema_name <> 'pg_temp'
       AND NOT EXISTS (SELECT FROM unnest(p.proconfig) setting WHERE setting LIKE 'search\_path=%')
  LOOP
    PERFORM dbsec_guard.refuse('definer',
      format('%s has the rights of its owner and no search_path of its own', made),
      format('%s %s SET search_path = pg_catalog, pg_temp', replace(tg_tag, 'CREATE', 'ALTER'), made));
  END LOOP;
EXCEPTION WHEN OTHERS THEN
  IF sqlstate LIKE 'DBG%' THEN RAISE; END IF;
  RAISE WARNING 'dbsec guard: judge_definer() failed, the command goes on without it: % (%)', sqlerrm, sqlstate;
END $$;

-- A new table of a tenant's schema is closed; it cannot be refused for want of a policy, which comes after it.
CREATE FUNCTION dbsec_guard.close_table() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  made record;
  does text;
BEGIN
  FOR made IN
    SELECT c.objid::regclass AS relation, c.object_identity FROM pg_event_trigger_ddl_commands() c
      JOIN pg_class t ON t.oid = c.objid AND t.relkind IN ('r', 'p')
                     AND NOT (t.relrowsecurity AND t.relforcerowsecurity)
      JOIN dbsec_guard.lists l ON l.list = 'tenant_schema' AND l.entry = c.schema_name
     WHERE c.classid = 'pg_class'::regclass AND c.object_type = 'table' AND NOT c.in_extension
       AND NOT EXISTS (SELECT FROM dbsec_guard.lists WHERE list = 'not_tenant_table' AND entry = c.object_identity)
  LOOP
    does := dbsec_guard.decide('tenancy');
    CONTINUE WHEN does NOT IN ('enforce', 'observe');
    IF does = 'enforce' THEN
      EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', made.relation);
    END IF;
    RAISE WARNING '%', format(CASE does WHEN 'observe' THEN '%s has no row security, and tenancy is on'
      ELSE 'row security of %s is enabled and forced: without a policy nobody sees a row' END, made.object_identity)
      USING ERRCODE = 'DBG07', HINT = format('CREATE POLICY ... ON %s', made.object_identity);
  END LOOP;
EXCEPTION WHEN OTHERS THEN
  IF sqlstate LIKE 'DBG%' THEN RAISE; END IF;
  RAISE WARNING 'dbsec guard: close_table() failed, the command goes on without it: % (%)', sqlerrm, sqlstate;
END $$;
