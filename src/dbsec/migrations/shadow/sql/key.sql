-- Column of the key, the schema of its operator =, and that of the type below its domains.
SELECT a.attname, n.nspname, (
         WITH RECURSIVE up(base, home) AS (
           SELECT t.typbasetype, t.typnamespace FROM pg_catalog.pg_type t WHERE t.oid = a.atttypid
           UNION ALL
           SELECT t.typbasetype, t.typnamespace FROM pg_catalog.pg_type t JOIN up ON t.oid = up.base)
         SELECT h.nspname FROM up JOIN pg_catalog.pg_namespace h ON h.oid = up.home WHERE up.base = 0)
  FROM pg_catalog.pg_index i, ROWS FROM (pg_catalog.unnest(i.indkey), pg_catalog.unnest(i.indclass)) WITH ORDINALITY AS k(num, class, n),
       pg_catalog.pg_attribute a, pg_catalog.pg_opclass c, pg_catalog.pg_amop m, pg_catalog.pg_operator o,
       pg_catalog.pg_namespace n
 WHERE i.indrelid = %(oid)s AND i.indisprimary AND k.n <= i.indnkeyatts
   AND a.attrelid = i.indrelid AND a.attnum = k.num AND c.oid = k.class
   AND m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
   AND m.amopstrategy = 3 AND o.oid = m.amopopr AND n.oid = o.oprnamespace ORDER BY k.n
