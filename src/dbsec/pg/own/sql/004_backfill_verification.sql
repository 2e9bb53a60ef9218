-- min_client: 1
-- What a verification found in each range of keys, so that a later one can tell which ranges have changed since.

-- Keys above low_key up to high_key, written as in dbsec.backfill_ranges. checksum: the sum over the rows, modulo 2^64,
-- of a hash of key, written columns and what they should be; it does not depend on the order of the rows.
CREATE TABLE IF NOT EXISTS dbsec.backfill_checksums (
    backfill   text NOT NULL REFERENCES dbsec.backfills ON DELETE CASCADE,
    n          integer NOT NULL,
    low_key    text[],
    high_key   text[] NOT NULL,
    rows       bigint NOT NULL,
    checksum   numeric NOT NULL,
    checked_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (backfill, n)
);
