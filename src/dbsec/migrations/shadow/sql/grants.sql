-- Column or '', privilege, role or '' for PUBLIC, with grant option.
SELECT ''::text, privilege_type, CASE grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(grantee)::text END,
       is_grantable
  FROM pg_catalog.pg_class c, pg_catalog.aclexplode(coalesce(relacl, pg_catalog.acldefault('r', relowner)))
 WHERE c.oid = %(oid)s
UNION ALL
SELECT attname, privilege_type, CASE grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(grantee)::text END,
       is_grantable
  FROM pg_catalog.pg_attribute, pg_catalog.aclexplode(attacl) WHERE attrelid = %(oid)s AND NOT attisdropped
 ORDER BY 1, 2, 3
