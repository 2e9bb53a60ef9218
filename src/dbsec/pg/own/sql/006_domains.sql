-- min_client: 1
-- Types of encrypted columns: what is not an encrypted value is refused, whoever writes it (psql, COPY, any driver).

-- The second byte is version 1 and the algorithm: 17 by reference, 18 deterministic, 19 inline. Lengths are the least
-- that the format needs. CASE, because get_byte() of an empty value is another error; NULL passes.
DO $$
BEGIN
    IF pg_catalog.to_regtype('dbsec.encrypted') IS NULL THEN
        CREATE DOMAIN dbsec.encrypted AS bytea CONSTRAINT encrypted_value CHECK (
            CASE WHEN pg_catalog.octet_length(VALUE) < 34 THEN false
                 WHEN pg_catalog.get_byte(VALUE, 0) <> 213 THEN false
                 WHEN pg_catalog.get_byte(VALUE, 1) = 17 THEN true
                 WHEN pg_catalog.get_byte(VALUE, 1) = 19 THEN pg_catalog.octet_length(VALUE) >= 64
                 ELSE VALUE IS NULL END
        );
    END IF;
    IF pg_catalog.to_regtype('dbsec.encrypted_deterministic') IS NULL THEN
        CREATE DOMAIN dbsec.encrypted_deterministic AS bytea CONSTRAINT encrypted_value CHECK (
            CASE WHEN pg_catalog.octet_length(VALUE) < 22 THEN false
                 WHEN pg_catalog.get_byte(VALUE, 0) <> 213 THEN false
                 ELSE VALUE IS NULL OR pg_catalog.get_byte(VALUE, 1) = 18 END
        );
    END IF;
END
$$;
COMMENT ON DOMAIN dbsec.encrypted IS 'a value that dbsec encrypted for one row: by reference (d511) or inline (d513)';
COMMENT ON DOMAIN dbsec.encrypted_deterministic IS 'a value that dbsec encrypted so that equal ones are equal (d512)';
