SELECT conname, pg_catalog.pg_get_constraintdef(oid) FROM pg_catalog.pg_constraint
 WHERE conrelid = %(oid)s AND contype IN ('p', 'u', 'x') ORDER BY contype <> 'p', 1
