SELECT tgname, pg_catalog.pg_get_triggerdef(oid), tgenabled::text FROM pg_catalog.pg_trigger
 WHERE tgrelid = %(oid)s AND NOT tgisinternal AND tgname NOT LIKE 'zz\_dbsec\_shadow\_%%' ORDER BY tgname
