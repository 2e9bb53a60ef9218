"""The queries on pg_catalog that tell a schema. All leave out system schemas, other sessions' temporary tables, and
what belongs to an extension, as pg_dump does."""

from __future__ import annotations

from typing import LiteralString

SETTINGS: LiteralString = """
SELECT current_setting('server_version_num')::int / 10000, current_schemas(false)::text[]
"""

RELATIONS: LiteralString = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relrowsecurity,
       pg_catalog.pg_get_partkeydef(c.oid), pg_catalog.pg_get_expr(c.relpartbound, c.oid),
       ARRAY(SELECT i.inhparent FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid ORDER BY i.inhseqno),
       (SELECT ARRAY[o.nspname, t.typname]::text[] FROM pg_catalog.pg_type t
        JOIN pg_catalog.pg_namespace o ON o.oid = t.typnamespace WHERE t.oid = c.reloftype)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f', 'm', 'v')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname !~ '^pg_(toast_)?temp_'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY n.nspname, c.relname
"""

COLUMNS: LiteralString = """
SELECT a.attrelid, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
       pg_catalog.pg_get_expr(f.adbin, f.adrelid), a.attidentity::text, a.attgenerated::text,
       (SELECT o.collname FROM pg_catalog.pg_collation o
        WHERE o.oid = a.attcollation AND a.attcollation <> t.typcollation)
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
WHERE a.attrelid = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

CONSTRAINTS: LiteralString = """
SELECT k.conrelid, k.conname, pg_catalog.pg_get_constraintdef(k.oid)
FROM pg_catalog.pg_constraint k
WHERE k.conrelid = ANY (%s) AND k.contype IN ('c', 'n', 'u', 'p', 'f', 'x')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint up WHERE up.oid = k.conparentid AND up.conrelid = k.conrelid)
ORDER BY k.conrelid, k.conname
"""

INDEXES: LiteralString = """
SELECT x.indrelid, c.relname, pg_catalog.pg_get_indexdef(x.indexrelid), x.indisvalid,
       (SELECT k.conname FROM pg_catalog.pg_constraint k
        WHERE k.conindid = x.indexrelid AND k.conrelid = x.indrelid AND k.contype IN ('p', 'u', 'x')),
       (SELECT p.relname FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
        WHERE i.inhrelid = x.indexrelid)
FROM pg_catalog.pg_index x
JOIN pg_catalog.pg_class c ON c.oid = x.indexrelid
WHERE x.indrelid = ANY (%s)
ORDER BY x.indrelid, c.relname
"""

TRIGGERS: LiteralString = """
SELECT tgrelid, tgname FROM pg_catalog.pg_trigger WHERE tgrelid = ANY (%s) AND NOT tgisinternal AND tgparentid = 0
"""

POLICIES: LiteralString = "SELECT polrelid, polname FROM pg_catalog.pg_policy WHERE polrelid = ANY (%s)"

# Columns that a policy, or UPDATE OF and WHEN of a trigger, depend on.
PINNED: LiteralString = """
SELECT r.relation, r.kind, r.name, array_agg(DISTINCT a.attname::text ORDER BY a.attname::text)
FROM (SELECT polrelid, 'policy', polname, 'pg_catalog.pg_policy'::regclass, oid FROM pg_catalog.pg_policy
      UNION ALL
      SELECT tgrelid, 'trigger', tgname, 'pg_catalog.pg_trigger'::regclass, oid FROM pg_catalog.pg_trigger
       WHERE NOT tgisinternal AND tgparentid = 0) r (relation, kind, name, class, oid)
JOIN pg_catalog.pg_depend d ON d.classid = r.class AND d.objid = r.oid AND d.refobjid = r.relation
     AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjsubid > 0
JOIN pg_catalog.pg_attribute a ON a.attrelid = r.relation AND a.attnum = d.refobjsubid
WHERE r.relation = ANY (%s) GROUP BY 1, 2, 3
"""

STATISTICS: LiteralString = """
SELECT n.nspname, s.stxname, s.stxrelid FROM pg_catalog.pg_statistic_ext s
JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = ANY (%s)
"""

RULES: LiteralString = """
SELECT ev_class, rulename FROM pg_catalog.pg_rewrite WHERE ev_class = ANY (%s) AND rulename <> '_RETURN'
"""

VIEW_COLUMNS: LiteralString = """
SELECT DISTINCT r.ev_class, n.nspname, c.relname, a.attname
FROM pg_catalog.pg_rewrite r
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
     AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> r.ev_class
JOIN pg_catalog.pg_class c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p', 'f', 'm', 'v')
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND a.attnum > 0
WHERE r.ev_class = ANY (%s) AND r.rulename = '_RETURN'
"""

DOMAINS: LiteralString = """
SELECT t.oid, n.nspname, t.typname, pg_catalog.format_type(t.typbasetype, t.typtypmod), t.typdefault, t.typnotnull
FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype = 'd' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND n.nspname !~ '^pg_(toast_)?temp_'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
ORDER BY n.nspname, t.typname
"""

DOMAIN_CONSTRAINTS: LiteralString = """
SELECT contypid, conname, pg_catalog.pg_get_constraintdef(oid)
FROM pg_catalog.pg_constraint WHERE contypid = ANY (%s) AND contype = 'c' ORDER BY contypid, conname
"""

TYPES: LiteralString = """
SELECT n.nspname, t.typname, t.typtype::text
FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
WHERE (t.typtype IN ('e', 'r') OR (t.typtype = 'c' AND c.relkind = 'c') OR (t.typtype = 'b' AND t.typcategory <> 'A'))
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname !~ '^pg_(toast_)?temp_'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
"""

FUNCTIONS: LiteralString = """
SELECT n.nspname, p.proname, max(CASE p.provolatile WHEN 'i' THEN 0 WHEN 's' THEN 1 ELSE 2 END)
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE p.prokind <> 'a' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND n.nspname !~ '^pg_(toast_)?temp_'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
GROUP BY n.nspname, p.proname
"""

SEQUENCES: LiteralString = """
SELECT n.nspname, c.relname, tn.nspname, t.relname, a.attname
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_depend o ON o.classid = 'pg_catalog.pg_class'::regclass AND o.objid = c.oid
     AND o.refclassid = 'pg_catalog.pg_class'::regclass AND o.deptype = 'a' AND o.refobjsubid > 0
LEFT JOIN pg_catalog.pg_class t ON t.oid = o.refobjid
LEFT JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = o.refobjid AND a.attnum = o.refobjsubid
WHERE c.relkind = 'S' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND n.nspname !~ '^pg_(toast_)?temp_'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('e', 'i'))
"""
