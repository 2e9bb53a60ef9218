-- Backfills: one row a job, one row a range of its key. A batch writes its rows and its range in one transaction.

CREATE TABLE IF NOT EXISTS dbsec.backfills (
    name            text PRIMARY KEY,
    table_name      text NOT NULL,
    -- what the job does to a row; digest is the SHA-256 of it: a job of another digest is another job
    definition      jsonb NOT NULL,
    digest          text NOT NULL,
    state           text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'aborted', 'done')),
    -- rows up to the high mark when it was begun, guessed from a sample
    estimate        bigint NOT NULL DEFAULT 0,
    started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_by      text NOT NULL DEFAULT session_user,
    finished_at     timestamptz,
    version         text NOT NULL,
    -- the last verification, and the digest of the job that it judged; verified_at is null where it found mismatches
    verified_at     timestamptz,
    verified_digest text,
    verification    jsonb
);

-- Keys above low_key up to high_key; what is above cursor_key is still to do. A key is one text a column: a value as
-- JSON writes it, which no DateStyle changes. The row is locked by whoever works on the range, for one batch at a time.
CREATE TABLE IF NOT EXISTS dbsec.backfill_ranges (
    backfill   text NOT NULL REFERENCES dbsec.backfills ON DELETE CASCADE,
    n          integer NOT NULL,
    low_key    text[],
    high_key   text[] NOT NULL,
    cursor_key text[],
    visited    bigint NOT NULL DEFAULT 0,
    changed    bigint NOT NULL DEFAULT 0,
    batches    bigint NOT NULL DEFAULT 0,
    -- rows a second of the worker that was here last, waits included
    rate       double precision,
    worker     text,
    updated_at timestamptz,
    done_at    timestamptz,
    PRIMARY KEY (backfill, n)
) WITH (fillfactor = 50); -- updated once a batch: room for the new version on the same page
