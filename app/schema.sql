-- The reference service's schema, as a team without dbsec would have left it: sound SQL, nothing hardened.
-- Phones and emails lie in clear, there is no row-level security, and whoever runs this owns everything.
-- PostgreSQL 15 to 18. Running it again changes nothing.

CREATE SCHEMA IF NOT EXISTS app;

CREATE TABLE IF NOT EXISTS app.tenants (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    slug          text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9](-?[a-z0-9]){0,62}$'),
    name          text NOT NULL,
    -- SHA-256 of a key of 256 random bits: nothing to guess, so no slow password hash is needed
    api_key_hash  bytea NOT NULL CHECK (octet_length(api_key_hash) = 32)
);

CREATE TABLE IF NOT EXISTS app.users (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   uuid NOT NULL REFERENCES app.tenants (id),
    name        text NOT NULL,
    email       text NOT NULL,
    phone       text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_tenant_phone_key UNIQUE (tenant_id, phone),
    -- what a composite foreign key needs, and the index of every look-up by id
    CONSTRAINT users_tenant_id_key UNIQUE (tenant_id, id)
);

CREATE TABLE IF NOT EXISTS app.orders (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id     uuid NOT NULL,
    user_id       bigint NOT NULL,
    amount_cents  bigint NOT NULL CHECK (amount_cents > 0),
    currency      text NOT NULL CHECK (length(currency) = 3),
    note          text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    -- composite: an order cannot name a user of another tenant
    CONSTRAINT orders_user_fkey FOREIGN KEY (tenant_id, user_id) REFERENCES app.users (tenant_id, id)
);

CREATE INDEX IF NOT EXISTS orders_tenant_created_idx ON app.orders (tenant_id, created_at, id);
CREATE INDEX IF NOT EXISTS orders_tenant_user_idx ON app.orders (tenant_id, user_id);

CREATE TABLE IF NOT EXISTS app.idempotency_keys (
    tenant_id     uuid NOT NULL REFERENCES app.tenants (id),
    key           text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    request_hash  bytea NOT NULL,
    -- null only inside the transaction that writes: whoever can see the row sees its answer
    status        smallint,
    response      text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, key)
);

CREATE INDEX IF NOT EXISTS idempotency_keys_age_idx ON app.idempotency_keys (tenant_id, created_at);
