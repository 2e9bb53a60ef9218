SELECT pg_catalog.pg_get_userbyid(relowner), relrowsecurity, relforcerowsecurity, relreplident::text,
       coalesce(reloptions, '{}'),
       coalesce((SELECT reloptions FROM pg_catalog.pg_class m WHERE m.oid = c.reltoastrelid), '{}'),
       pg_catalog.obj_description(oid, 'pg_class'),
       (SELECT i.relname FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
         WHERE x.indrelid = c.oid AND x.indisreplident)
  FROM pg_catalog.pg_class c WHERE oid = %(oid)s
