-- What the runner of migrations knows: which file was run, what was decided, and which releases were seen.

CREATE TABLE IF NOT EXISTS dbsec.migrations (
    number      bigint PRIMARY KEY,
    name        text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('sql', 'backfill')),
    phase       text NOT NULL CHECK (phase IN ('expand', 'backfill', 'contract')),
    -- SHA-256 of the file, line ends normalised
    checksum    text NOT NULL,
    state       text NOT NULL CHECK (state IN ('applying', 'applied', 'reverting', 'reverted')),
    -- counts the times that it was begun anew: each has a journal of its own
    run         integer NOT NULL,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz,
    -- where the WAL was: a restore to before this has what the migration dropped
    started_lsn pg_lsn,
    run_by      text NOT NULL,
    version     text NOT NULL,
    -- what it drops, as it was before: [{"what", "name", "definition"}]
    dropped     jsonb NOT NULL DEFAULT '[]'
);

CREATE TABLE IF NOT EXISTS dbsec.migration_events (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    number   bigint,
    event    text NOT NULL,
    detail   text NOT NULL DEFAULT '',
    run_by   text NOT NULL DEFAULT session_user,
    version  text NOT NULL
);

-- Each whole look at the sessions of one server. server: its system identifier and address, as the sampler saw it.
CREATE TABLE IF NOT EXISTS dbsec.release_samples (
    server     text NOT NULL,
    sampled_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    sampled_by text NOT NULL DEFAULT session_user,
    PRIMARY KEY (server, sampled_at)
);

-- Which application_name was seen when. "" is a client that names itself not at all.
CREATE TABLE IF NOT EXISTS dbsec.release_sightings (
    server           text NOT NULL,
    application_name text NOT NULL,
    first_seen       timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen        timestamptz NOT NULL DEFAULT clock_timestamp(),
    sessions         integer NOT NULL,
    PRIMARY KEY (server, application_name)
);
