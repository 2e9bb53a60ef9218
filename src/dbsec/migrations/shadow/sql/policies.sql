SELECT polname, polpermissive, polcmd::text, pg_catalog.pg_get_expr(polqual, polrelid),
       pg_catalog.pg_get_expr(polwithcheck, polrelid),
       ARRAY(SELECT CASE r WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(r)::text END
               FROM pg_catalog.unnest(polroles) r)
  FROM pg_catalog.pg_policy WHERE polrelid = %(oid)s ORDER BY polname
