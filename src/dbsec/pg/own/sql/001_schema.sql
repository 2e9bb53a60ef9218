-- min_client: 1
-- Which version the schema has, and the journal of jobs that resume. Runs as dbsec_owner, in one transaction.
CREATE TABLE IF NOT EXISTS dbsec.schema_version (
  version integer PRIMARY KEY CHECK (version > 0),
  min_client integer NOT NULL CHECK (min_client > 0),
  installed_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  dbsec text NOT NULL
);
COMMENT ON TABLE dbsec.schema_version IS 'one row a step; min_client is the oldest schema version that a client must know';

CREATE TABLE IF NOT EXISTS dbsec.journal (
  job text NOT NULL,
  n bigint NOT NULL CHECK (n > 0),
  format integer NOT NULL,
  record text NOT NULL,
  crc text NOT NULL,
  PRIMARY KEY (job, n)
);
COMMENT ON TABLE dbsec.journal IS 'steps of jobs, begun and done; written in the transaction of the step';
