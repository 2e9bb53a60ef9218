-- Schema dbsec and its owner. Each file of this folder is one version step, runs in one transaction, and may run again.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dbsec_owner') THEN
    CREATE ROLE dbsec_owner NOLOGIN;
  END IF;
END $$;
CREATE SCHEMA IF NOT EXISTS dbsec AUTHORIZATION dbsec_owner;
