SELECT attname, pg_catalog.format_type(atttypid, atttypmod), attnotnull, attidentity::text, attgenerated::text,
       coalesce(attstattarget::int, -1), coalesce(attoptions, '{}'),
       pg_catalog.pg_get_serial_sequence(%(name)s, attname)
  FROM pg_catalog.pg_attribute WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
