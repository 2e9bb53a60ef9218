SELECT conname, pg_catalog.pg_get_constraintdef(oid) FROM pg_catalog.pg_constraint
 WHERE conrelid = %(oid)s AND contype IN ('c', 'n') ORDER BY 1
