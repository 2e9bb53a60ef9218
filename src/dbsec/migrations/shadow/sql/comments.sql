-- Of what LIKE does not bring its comment along: the kind of object, its name, the comment.
SELECT 'INDEX'::text, c.relname, d.description FROM pg_catalog.pg_description d
  JOIN pg_catalog.pg_index i ON i.indexrelid = d.objoid JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = %(oid)s AND d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass
UNION ALL
SELECT 'CONSTRAINT', k.conname, d.description FROM pg_catalog.pg_description d
  JOIN pg_catalog.pg_constraint k ON k.oid = d.objoid
 WHERE k.conrelid = %(oid)s AND d.classoid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
UNION ALL
SELECT 'TRIGGER', k.tgname, d.description FROM pg_catalog.pg_description d
  JOIN pg_catalog.pg_trigger k ON k.oid = d.objoid
 WHERE k.tgrelid = %(oid)s AND d.classoid = 'pg_catalog.pg_trigger'::pg_catalog.regclass
UNION ALL
SELECT 'POLICY', k.polname, d.description FROM pg_catalog.pg_description d
  JOIN pg_catalog.pg_policy k ON k.oid = d.objoid
 WHERE k.polrelid = %(oid)s AND d.classoid = 'pg_catalog.pg_policy'::pg_catalog.regclass
 ORDER BY 1, 2
