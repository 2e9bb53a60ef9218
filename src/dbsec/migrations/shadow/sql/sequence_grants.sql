-- Column, privilege, role or '' for PUBLIC, with grant option, for the sequence of each identity column.
SELECT a.attname, privilege_type, CASE grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(grantee)::text END,
       is_grantable
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class s ON s.oid = pg_catalog.pg_get_serial_sequence(%(name)s, a.attname)::pg_catalog.regclass,
       pg_catalog.aclexplode(s.relacl)
 WHERE a.attrelid = %(oid)s AND a.attidentity <> '' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2, 3
