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
