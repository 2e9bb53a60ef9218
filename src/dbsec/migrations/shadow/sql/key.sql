SELECT a.attname FROM pg_catalog.pg_index i, pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k(num, n),
       pg_catalog.pg_attribute a
 WHERE i.indrelid = %(oid)s AND i.indisprimary AND k.n <= i.indnkeyatts
   AND a.attrelid = i.indrelid AND a.attnum = k.num ORDER BY k.n
