-- Of each index without a constraint: its name, whether it is unique, and its definition behind the table's name.
SELECT c.relname, x.indisunique,
       pg_catalog.substr(d.text, pg_catalog.length(pg_catalog.format('CREATE %%sINDEX %%I ON %%s ',
         CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE '' END, c.relname, x.indrelid::pg_catalog.regclass)) + 1)
  FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class c ON c.oid = x.indexrelid,
       pg_catalog.pg_get_indexdef(x.indexrelid) AS d(text)
 WHERE x.indrelid = %(oid)s AND NOT EXISTS (
       SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x'))
 ORDER BY 1
