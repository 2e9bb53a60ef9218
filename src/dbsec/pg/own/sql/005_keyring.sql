-- min_client: 1
-- Wrapped DEKs, one row a tenant, context, purpose and generation. What is here opens nothing without the KMS.

-- id stands in the header of each value. commitment: HKDF of the DEK, so that no value opens under two keys.
-- salt: of each derivation, never changed. used: encryptions that processes have leased, 2^32 at most.
CREATE TABLE IF NOT EXISTS dbsec.keyring (
    id          bigint GENERATED ALWAYS AS IDENTITY (MAXVALUE 4294967295) PRIMARY KEY,
    tenant      text NOT NULL,
    context     text NOT NULL CHECK (context <> ''),
    purpose     text NOT NULL CHECK (purpose IN ('data', 'lookup')),
    generation  integer NOT NULL CHECK (generation > 0),
    state       text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'retired', 'destroyed')),
    wrapped     bytea NOT NULL,
    kek         text NOT NULL,
    kek_version text NOT NULL,
    commitment  bytea NOT NULL CHECK (octet_length(commitment) = 32),
    salt        bytea NOT NULL CHECK (octet_length(salt) = 32),
    used        bigint NOT NULL DEFAULT 0 CHECK (used BETWEEN 0 AND 4294967296),
    created_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    retired_at  timestamptz,
    UNIQUE (tenant, context, purpose, generation)
) WITH (fillfactor = 50); -- a lease is an update of used: room for the new version on the same page

-- one key of a tenant and context encrypts at a time; of lookup keys as many live as there are generations of columns
CREATE UNIQUE INDEX IF NOT EXISTS keyring_active_key ON dbsec.keyring (tenant, context)
    WHERE purpose = 'data' AND state = 'active';
COMMENT ON TABLE dbsec.keyring IS 'wrapped DEKs; KEKs stay in the KMS';
