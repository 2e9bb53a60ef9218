-- what the guards ask

-- Was this table or index made by this transaction? The row of a system column never changes after that, and that of an
-- index's first column neither. A subtransaction's id lies after its parent's: its age is below zero.
CREATE FUNCTION dbsec_guard.is_new(relation oid) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN coalesce((SELECT bool_and(age(xmin) BETWEEN -1000000 AND 0) FROM pg_attribute
                    WHERE attrelid = relation AND attnum IN (-6, 1)), false);
END $$;

-- The table that a command was about, where others use it: neither temporary nor made by this transaction.
CREATE FUNCTION dbsec_guard.standing_table(class oid, object oid) RETURNS oid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found oid := CASE class
    WHEN 'pg_class'::regclass THEN coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = object), object)
    WHEN 'pg_trigger'::regclass THEN (SELECT tgrelid FROM pg_trigger WHERE oid = object)
    WHEN 'pg_policy'::regclass THEN (SELECT polrelid FROM pg_policy WHERE oid = object)
    WHEN 'pg_rewrite'::regclass THEN (SELECT ev_class FROM pg_rewrite WHERE oid = object)
  END;
BEGIN
  RETURN (SELECT oid FROM pg_class WHERE oid = found AND relkind IN ('r', 'p', 'm') AND relpersistence <> 't'
             AND NOT dbsec_guard.is_new(oid));
END $$;

-- The bytes of a table with all its partitions.
CREATE FUNCTION dbsec_guard.bytes(relation regclass) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN coalesce((SELECT sum(pg_table_size(relid)) FROM pg_partition_tree(relation) WHERE isleaf),
                  pg_table_size(relation), 0);
END $$;

-- The limit of a table: its own, else that of the nearest parent that has one, else the one for all.
CREATE FUNCTION dbsec_guard.max_bytes(relation regclass) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN coalesce(
    (SELECT l.max_bytes FROM (SELECT relation, 0 UNION ALL
                              SELECT * FROM pg_partition_ancestors(relation) WITH ORDINALITY) a (relid, distance),
            pg_identify_object('pg_class'::regclass, a.relid, 0) i JOIN dbsec_guard.table_limits l
              ON l.table_name = i.identity
      ORDER BY distance LIMIT 1),
    (SELECT value::bigint FROM dbsec_guard.settings WHERE name = 'max_table_bytes'));
END $$;

-- Is an extension's script what runs? Its row is new then, or was just updated.
CREATE FUNCTION dbsec_guard.in_extension() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN EXISTS (SELECT FROM pg_extension WHERE age(xmin) BETWEEN -1000000 AND 0)
         AND pg_current_xact_id_if_assigned() IS NOT NULL;
END $$;

-- Is the session's search_path one that the policy names, or one on which no name of a user can lie?
CREATE FUNCTION dbsec_guard.is_pinned() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  path constant text := regexp_replace(current_setting('dbsec_guard.search_path', true), '\s*,\s*', ', ', 'g');
BEGIN
  RETURN path IS NULL OR path ~ '^((""|"?pg_catalog"?|"?pg_temp"?|"?information_schema"?)(, |$))*$'
         OR EXISTS (SELECT FROM dbsec_guard.lists WHERE list = 'search_path' AND entry = path);
END $$;

-- Do both settings hold that DDL needs?
CREATE FUNCTION dbsec_guard.settings_hold() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN current_setting('statement_timeout') <> '0' AND dbsec_guard.is_pinned();
END $$;

-- A command that commits on its way must not be refused at its end: an invalid index or half a detachment would stay.
-- None of them runs in a block or function, hence each says so in the query itself.
CREATE FUNCTION dbsec_guard.says_concurrently() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN coalesce(current_query() ~* '\mconcurrently\M', false);
END $$;

-- What a guard shall do: its mode, or 'override' where one is open for whoever is logged in.
CREATE FUNCTION dbsec_guard.decide(which text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  does text := (SELECT mode FROM dbsec_guard.guards WHERE name = which);
  passes dbsec_guard.overrides;
BEGIN
  IF does = 'enforce' THEN
    SELECT * INTO passes FROM dbsec_guard.overrides
     WHERE guard = which AND role_name = session_user AND ended_at IS NULL AND clock_timestamp() < until LIMIT 1;
    IF FOUND THEN
      -- to the log alone: before some commands nothing may be written
      RAISE LOG 'dbsec guard "%": "%" passes by override %, opened by "%" until %: %', which, session_user, passes.id,
        passes.opened_by, passes.until, passes.reason;
      does := 'override';
    END IF;
  END IF;
  RETURN coalesce(does, 'off');
END $$;

-- Refuse, warn or let pass, as the mode says; a command is warned of once by each guard, and not by its net again.
CREATE FUNCTION dbsec_guard.refuse(which text, message text, hint text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  code constant text := (SELECT sqlstate FROM dbsec_guard.guards WHERE name = which);
  told constant text := coalesce(current_setting('dbsec_guard.told', true), '');
  does constant text := dbsec_guard.decide(which);
BEGIN
  IF does = 'enforce' THEN
    RAISE EXCEPTION USING MESSAGE = message, HINT = hint, ERRCODE = code;
  -- anybody may set what was told: it must silence warnings alone
  ELSIF does IN ('observe', 'override') AND told NOT LIKE '%<' || which || '>%' THEN
    PERFORM set_config('dbsec_guard.told', told || '<' || which || '>', true);
    RAISE LOG 'dbsec guard "%", %: %', which, does, message;
    RAISE WARNING USING HINT = hint, ERRCODE = code,
      MESSAGE = CASE does WHEN 'override' THEN 'let through by an override: ' ELSE '' END || message;
  END IF;
END $$;
