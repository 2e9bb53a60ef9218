-- Guardrails in the database itself: they see what no linter can, psql at 3 a.m., an ORM, a DO block.
-- Made by dbsec from [migrations.guard] of dbsec.toml: change that, not this. PostgreSQL 15 to 18, no extension.
--
--   psql -X -v ON_ERROR_STOP=1 -f guardrails.sql    all of it or nothing; again as often as you like; in each database;
--                                                   as superuser, or as whoever else may create event triggers
--
--   guard                mode     SQLSTATE
--   rewrite              enforce  DBG01  refuses a rewrite of a table above its limit, before a row is written
--   index                enforce  DBG02  refuses to build an index on such a table without CONCURRENTLY
--   drop                 enforce  DBG03  refuses the loss of a protected object, by whatever cascade
--   definer              enforce  DBG04  refuses a SECURITY DEFINER function without a search_path of its own
--   statement_timeout    enforce  DBG05  refuses work on a table without one; not CONCURRENTLY and VALIDATE
--   search_path          enforce  DBG06  refuses DDL under a search_path that the policy does not name
--   tenancy              enforce  DBG07  enables and forces row security of a tenant's new table, and tells of it
--   lock_timeout         enforce  DBG08  sets it where neither server nor session did
--   transaction_timeout  enforce  DBG09  the same from PostgreSQL 17 on, for what locks a table
--
-- What they cannot see, how each can be evaded, and how to open one in an emergency: docs/migrations_guard.md.
-- None of them writes before a command, and none refuses at the end what has committed on its way. One that fails
-- itself warns and lets pass.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';
SET LOCAL client_min_messages = warning;

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

-- what can be told from the text of a query, before any lock is taken

-- The query without comments and strings; NULL where it is long or has a $tag$, which no regular expression can pair.
CREATE FUNCTION dbsec_guard.said() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $said$
DECLARE
  said constant text := current_query();
BEGIN
  IF length(said) > 32768 OR said ~ '\$[[:alpha:]_][^$\s]*\$' THEN
    RETURN NULL;
  END IF;
  RETURN regexp_replace(said, '("(?:[^"]|"")*")|\me''(?:[^''\\]|\\.|'''')*''|''(?:[^'']|'''')*''|--[^\n]*'
    '|/\*(?:[^*]|\*+[^*/])*\*+/|\$\$(?:[^$]|\$[^$])*\$\$', ' \1 ', 'gi');
END $said$;

-- The statements of one kind that stand in the query itself, not in a block or function.
-- patient: it may take its time, for it lets others work.
CREATE FUNCTION dbsec_guard.statements(tag text)
RETURNS TABLE (kind text, name text, patient boolean)
LANGUAGE plpgsql ROWS 2 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  word constant text := '(?:"(?:[^"]|"")+"|[^\s".,;()*]+)';
  named constant text := word || '(?:\s*\.\s*' || word || '){0,2}';
  said constant text := dbsec_guard.said();
BEGIN
  CASE tag
  WHEN 'CREATE INDEX' THEN
    RETURN QUERY SELECT CASE WHEN m[2] IS NULL THEN 'table' ELSE 'only' END, m[3], m[1] IS NOT NULL
      FROM regexp_matches(said, '(?:^|;)\s*create\s+(?:unique\s+)?index\s+(concurrently\s+)?'
      '(?:(?:if\s+not\s+exists\s+)?' || word || '\s+)?on\s+(only\s+)?(' || named || ')', 'gi') m;
  WHEN 'ALTER TABLE' THEN
    RETURN QUERY SELECT 'table', m[1],
        m[2] ~* ('^validate\s+constraint\s+' || word || '\s*$') OR m[2] ~* '\m(concurrently|finalize)\s*$'
      FROM regexp_matches(said,
      '(?:^|;)\s*alter\s+table\s+(?:if\s+exists\s+)?(?:only\s+)?(' || named || ')[\s*]+([^;]*)', 'gi') m;
  WHEN 'REINDEX' THEN
    RETURN QUERY SELECT lower(m[2]), m[4],
        m[3] IS NOT NULL OR coalesce(m[1] ~* '\mconcurrently(?!\s+(false|off|0))', false)
      FROM regexp_matches(said, '(?:^|;)\s*reindex\s*(\([^)]*\))?\s*(index|table|schema|database)\s+'
      '(concurrently\s+)?(' || named || ')?', 'gi') m;
  WHEN 'DROP INDEX' THEN
    RETURN QUERY SELECT 'index', m[2], m[1] IS NOT NULL FROM regexp_matches(said,
      '(?:^|;)\s*drop\s+index\s+(concurrently\s+)?(?:if\s+exists\s+)?(' || named || ')', 'gi') m;
  ELSE NULL;
  END CASE;
END $$;

-- Do all statements of one kind let others work?
CREATE FUNCTION dbsec_guard.is_patient(tag text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- a script of megabytes in one query has thousands of commands
  IF length(current_query()) <= 32768 AND current_query() ~* '\m(concurrently|validate|finalize)\M' THEN
    RETURN coalesce((SELECT bool_and(patient) FROM dbsec_guard.statements(tag)), false);
  END IF;
  RETURN false;
END $$;

-- The relations that a name of a statement means, by the search_path of the session.
CREATE FUNCTION dbsec_guard.meant(kind text, name text) RETURNS SETOF oid
LANGUAGE plpgsql ROWS 2 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  parts constant text[] := parse_ident(name);
  last constant integer := cardinality(parts);
  schemas constant text[] := CASE last WHEN 1 THEN current_setting('dbsec_guard.schemas', true)::text[]
    ELSE parts[last - 1:last - 1] END;
BEGIN
  IF kind IN ('schema', 'database') THEN
    RETURN QUERY SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'm')
        AND (n.nspname = parts[1] OR kind = 'database' AND n.nspname !~ '^(pg_|information_schema$)');
  ELSE
    RETURN QUERY SELECT c.oid FROM unnest(schemas) WITH ORDINALITY s (schema, place)
        JOIN pg_namespace n ON n.oid = CASE s.schema WHEN 'pg_temp' THEN pg_my_temp_schema()
          ELSE to_regnamespace(quote_ident(s.schema))::oid END
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = parts[last]::name
      ORDER BY place LIMIT 1;
  END IF;
END $$;

-- the refusals that more than one event makes

CREATE FUNCTION dbsec_guard.refuse_settings(tag text, target text, timed boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF timed AND current_setting('statement_timeout') = '0' AND NOT dbsec_guard.in_extension() THEN
    PERFORM dbsec_guard.refuse('statement_timeout',
      format('%s (%s) without a statement_timeout: nothing would end it while it holds its lock', tag, target),
      'SET statement_timeout = ''5s''');
  END IF;
  IF NOT dbsec_guard.is_pinned() AND NOT dbsec_guard.in_extension() THEN
    PERFORM dbsec_guard.refuse('search_path',
      format('%s (%s) under a search_path that the policy does not know: %s', tag, target,
             current_setting('dbsec_guard.search_path', true)),
      'RESET search_path, or write each name with its schema and SET search_path = ''''');
  END IF;
END $$;

CREATE FUNCTION dbsec_guard.refuse_build(tag text, target regclass, does text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF dbsec_guard.bytes(target) > dbsec_guard.max_bytes(target) THEN
    PERFORM dbsec_guard.refuse('index',
      format('%s on %s %s every writer while it builds: the table has %s', tag, target, does,
             pg_size_pretty(dbsec_guard.bytes(target))),
      CASE WHEN tag = 'ALTER TABLE' THEN 'CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT ... USING INDEX'
      WHEN tag = 'CREATE INDEX' AND (SELECT relkind FROM pg_class WHERE oid = target) = 'p'
      THEN 'CREATE INDEX ON ONLY it, CREATE INDEX CONCURRENTLY on each partition, ALTER INDEX ... ATTACH PARTITION'
      ELSE tag || ' ... CONCURRENTLY, outside a transaction, with lock_timeout = 0' END);
  END IF;
END $$;

CREATE FUNCTION dbsec_guard.refuse_drop(tag text, lost text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM dbsec_guard.refuse('drop', format('%s would drop what is protected: %s', tag, lost),
    'SELECT dbsec_guard.override(''drop'', ''why''), as whoever installed the guard');
END $$;

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

REVOKE ALL ON FUNCTION
  dbsec_guard.bytes,
  dbsec_guard.close_table,
  dbsec_guard.decide,
  dbsec_guard.end_override,
  dbsec_guard.give,
  dbsec_guard.in_extension,
  dbsec_guard.is_built,
  dbsec_guard.is_new,
  dbsec_guard.is_patient,
  dbsec_guard.is_pinned,
  dbsec_guard.judge_build,
  dbsec_guard.judge_definer,
  dbsec_guard.judge_drop,
  dbsec_guard.judge_rewrite,
  dbsec_guard.judge_settings,
  dbsec_guard.limit_time,
  dbsec_guard.max_bytes,
  dbsec_guard.meant,
  dbsec_guard.note_path,
  dbsec_guard.override,
  dbsec_guard.read_query,
  dbsec_guard.refuse,
  dbsec_guard.refuse_build,
  dbsec_guard.refuse_drop,
  dbsec_guard.refuse_settings,
  dbsec_guard.said,
  dbsec_guard.says_concurrently,
  dbsec_guard.settings_hold,
  dbsec_guard.standing_table,
  dbsec_guard.statements,
  dbsec_guard.take_back
FROM PUBLIC;

-- the policy

INSERT INTO dbsec_guard.guards (name, sqlstate, mode) VALUES
  ('definer', 'DBG04', 'enforce'),
  ('drop', 'DBG03', 'enforce'),
  ('index', 'DBG02', 'enforce'),
  ('lock_timeout', 'DBG08', 'enforce'),
  ('rewrite', 'DBG01', 'enforce'),
  ('search_path', 'DBG06', 'enforce'),
  ('statement_timeout', 'DBG05', 'enforce'),
  ('tenancy', 'DBG07', 'enforce'),
  ('transaction_timeout', 'DBG09', 'enforce')
ON CONFLICT (name) DO UPDATE SET sqlstate = excluded.sqlstate, mode = excluded.mode;

INSERT INTO dbsec_guard.settings (name, value) VALUES
  ('format', '1'),
  ('lock_timeout', '500ms'),
  ('max_override', '1h'),
  ('max_table_bytes', '104857600'),
  ('transaction_timeout', '30s')
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

DELETE FROM dbsec_guard.table_limits WHERE by_policy;
INSERT INTO dbsec_guard.table_limits (table_name, max_bytes, reason, by_policy) VALUES
  ('dbsec_guard_selftest.big', 0, 'dbsec migrate guard selftest', true)
ON CONFLICT DO NOTHING;

DELETE FROM dbsec_guard.protected WHERE by_policy;
INSERT INTO dbsec_guard.protected (object_type, object_identity, by_policy) VALUES
  ('table', 'app.idempotency_keys', true),
  ('table', 'app.orders', true),
  ('table', 'app.tenants', true),
  ('table', 'app.users', true)
ON CONFLICT DO NOTHING;

DELETE FROM dbsec_guard.lists WHERE by_policy;
INSERT INTO dbsec_guard.lists (list, entry, by_policy) VALUES
  ('search_path', '"$user", public', true)
ON CONFLICT DO NOTHING;

-- ALWAYS: session_replication_role = replica does not pass them by; they fire in the order of their names
CREATE EVENT TRIGGER dbsec_guard_0_path_start ON ddl_command_start
  EXECUTE FUNCTION dbsec_guard.note_path();
ALTER EVENT TRIGGER dbsec_guard_0_path_start ENABLE ALWAYS;
CREATE EVENT TRIGGER dbsec_guard_0_path_end ON ddl_command_end
  EXECUTE FUNCTION dbsec_guard.note_path();
ALTER EVENT TRIGGER dbsec_guard_0_path_end ENABLE ALWAYS;
CREATE EVENT TRIGGER dbsec_guard_0_path_drop ON sql_drop
  EXECUTE FUNCTION dbsec_guard.note_path();
ALTER EVENT TRIGGER dbsec_guard_0_path_drop ENABLE ALWAYS;
CREATE EVENT TRIGGER dbsec_guard_1_time ON ddl_command_start
  EXECUTE FUNCTION dbsec_guard.limit_time();
ALTER EVENT TRIGGER dbsec_guard_1_time ENABLE ALWAYS;
CREATE EVENT TRIGGER dbsec_guard_2_query ON ddl_command_start
  EXECUTE FUNCTION dbsec_guard.read_query();
ALTER EVENT TRIGGER dbsec_guard_2_query ENABLE ALWAYS;
CREATE EVENT TRIGGER dbsec_guard_3_settings ON ddl_command_end
  EXECUTE FUNCTION dbsec_guard.judge_settings();
ALTER EVENT TRIGGER dbsec_guard_3_settings ENABLE ALWAYS;
CREATE EVENT TRIGGER dbsec_guard_4_build ON ddl_command_end
  EXECUTE FUNCTION dbsec_guard.judge_build();
ALTER EVENT TRIGGER dbsec_guard_4_build ENABLE ALWAYS;
CREATE EVENT TRIGGER dbsec_guard_5_definer ON ddl_command_end
  WHEN TAG IN ('CREATE FUNCTION', 'ALTER FUNCTION', 'CREATE PROCEDURE', 'ALTER PROCEDURE', 'ALTER ROUTINE')
  EXECUTE FUNCTION dbsec_guard.judge_definer();
ALTER EVENT TRIGGER dbsec_guard_5_definer ENABLE ALWAYS;
CREATE EVENT TRIGGER dbsec_guard_6_tenancy ON ddl_command_end
  WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE SCHEMA')
  EXECUTE FUNCTION dbsec_guard.close_table();
ALTER EVENT TRIGGER dbsec_guard_6_tenancy ENABLE ALWAYS;
CREATE EVENT TRIGGER dbsec_guard_7_rewrite ON table_rewrite
  EXECUTE FUNCTION dbsec_guard.judge_rewrite();
ALTER EVENT TRIGGER dbsec_guard_7_rewrite ENABLE ALWAYS;
CREATE EVENT TRIGGER dbsec_guard_8_drop ON sql_drop
  EXECUTE FUNCTION dbsec_guard.judge_drop();
ALTER EVENT TRIGGER dbsec_guard_8_drop ENABLE ALWAYS;

COMMIT;
