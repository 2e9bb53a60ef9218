-- One row a reason why an online rewrite does not make a table again: what stands in the way, and its name.
WITH t AS (SELECT c.*, n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.oid = %(oid)s)
SELECT 'it is no plain table', relname::text FROM t WHERE relkind <> 'r' OR relispartition OR reloftype <> 0
UNION ALL SELECT 'it is not permanent', relname FROM t WHERE relpersistence <> 'p'
UNION ALL SELECT 'its access method is not heap', relname FROM t
            JOIN pg_catalog.pg_am a ON a.oid = relam WHERE amname <> 'heap'
UNION ALL SELECT 'a tablespace of its own', relname FROM pg_catalog.pg_class
           WHERE reltablespace <> 0 AND (oid = %(oid)s OR oid IN (
                 SELECT indexrelid FROM pg_catalog.pg_index WHERE indrelid = %(oid)s))
UNION ALL SELECT 'inheritance', inhrelid::pg_catalog.regclass::text FROM pg_catalog.pg_inherits
           WHERE %(oid)s IN (inhparent, inhrelid)
UNION ALL SELECT DISTINCT 'a view or rule', r.ev_class::pg_catalog.regclass::text FROM pg_catalog.pg_depend d
            JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
           WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.refobjid = %(oid)s
             AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
UNION ALL SELECT DISTINCT 'its rows as a type', pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
            FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_type y ON y.oid = d.refobjid
            JOIN t ON y.oid = t.reltype OR y.typelem = t.reltype
           WHERE d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.deptype <> 'i'
UNION ALL SELECT DISTINCT 'a function with a parsed body', pg_catalog.pg_describe_object(classid, objid, 0)
            FROM pg_catalog.pg_depend
           WHERE refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND refobjid = %(oid)s
             AND classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
UNION ALL SELECT DISTINCT 'a policy of another table', pg_catalog.pg_describe_object(d.classid, d.objid, 0)
            FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_policy p ON p.oid = d.objid AND p.polrelid <> %(oid)s
           WHERE d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND d.refobjid = %(oid)s
             AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
UNION ALL SELECT 'a publication', pubname FROM pg_catalog.pg_publication_tables
            JOIN t ON schemaname = nspname AND tablename = relname
UNION ALL SELECT 'an extension', refobjid::text FROM pg_catalog.pg_depend
           WHERE deptype = 'e' AND objid = %(oid)s AND classid = 'pg_catalog.pg_class'::pg_catalog.regclass
UNION ALL SELECT 'a security label', label FROM pg_catalog.pg_seclabels WHERE objoid = %(oid)s
UNION ALL SELECT 'a constraint that is not valid', conname FROM pg_catalog.pg_constraint
           WHERE %(oid)s IN (conrelid, confrelid) AND NOT convalidated
UNION ALL SELECT 'a foreign key to itself', conname FROM pg_catalog.pg_constraint
           WHERE conrelid = %(oid)s AND confrelid = %(oid)s
UNION ALL SELECT 'a foreign key with a partitioned table', k.conname FROM pg_catalog.pg_constraint k
            JOIN pg_catalog.pg_class c ON c.oid IN (k.conrelid, k.confrelid) AND c.relkind = 'p'
           WHERE k.contype = 'f' AND %(oid)s IN (k.conrelid, k.confrelid)
UNION ALL SELECT 'a deferrable key', conname FROM pg_catalog.pg_constraint
           WHERE conrelid = %(oid)s AND contype IN ('p', 'u', 'x') AND condeferrable
UNION ALL SELECT 'an index that is INVALID', indexrelid::pg_catalog.regclass::text FROM pg_catalog.pg_index
           WHERE indrelid = %(oid)s AND NOT indisvalid
UNION ALL SELECT 'an index to cluster by', indexrelid::pg_catalog.regclass::text FROM pg_catalog.pg_index
           WHERE indrelid = %(oid)s AND indisclustered
UNION ALL SELECT 'a right that its owner did not grant', privilege_type FROM t, pg_catalog.aclexplode(relacl)
           WHERE grantor <> relowner
UNION ALL SELECT 'a right to a column that its owner did not grant', a.attname FROM t
            JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid, pg_catalog.aclexplode(a.attacl)
           WHERE grantor <> relowner
UNION ALL SELECT 'rows of a subscription', '' FROM pg_catalog.pg_subscription_rel WHERE srrelid = %(oid)s
UNION ALL SELECT DISTINCT 'a sequence that something else uses too',
                 pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
            FROM pg_catalog.pg_depend s
            JOIN pg_catalog.pg_depend d ON d.refclassid = s.classid AND d.refobjid = s.objid AND d.deptype = 'n'
            JOIN pg_catalog.pg_attribute a ON a.attrelid = %(oid)s AND a.attnum = s.refobjsubid
           WHERE s.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.refobjid = %(oid)s
             AND s.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.deptype IN ('a', 'i')
             AND a.attidentity <> ''
UNION ALL SELECT 'a column with two sequences', a.attname FROM pg_catalog.pg_depend d
            JOIN pg_catalog.pg_class q ON q.oid = d.objid AND q.relkind = 'S'
            JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
           WHERE d.refobjid = %(oid)s AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
             AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')
           GROUP BY a.attname HAVING pg_catalog.count(*) > 1
UNION ALL SELECT 'a trigger of another table', tgname FROM pg_catalog.pg_trigger
           WHERE tgconstrrelid = %(oid)s AND NOT tgisinternal
UNION ALL SELECT 'no primary key', '' FROM t WHERE NOT EXISTS (
                 SELECT FROM pg_catalog.pg_constraint WHERE conrelid = %(oid)s AND contype = 'p')
