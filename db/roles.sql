-- Roles and rights of database app. Made from roles.toml by dbsec: change that file, not this one.
--
--   psql -X -d app -f roles.sql        as a superuser; all of it or nothing; again as often as you like
--
-- It gives what roles.toml says and takes back what these roles and PUBLIC have beyond that in the schemas that it
-- names. It knows nothing of roles that roles.toml does not name. PostgreSQL 15 to 18.
-- It hands tables over, which needs ACCESS EXCLUSIVE for a moment: it gives up after 200 ms of waiting. Run it again.

\set ON_ERROR_STOP on
BEGIN;
SET LOCAL search_path = pg_catalog;
SET LOCAL lock_timeout = '200ms';
SET LOCAL statement_timeout = '60s';
SET LOCAL client_min_messages = warning;
SELECT pg_advisory_xact_lock(7233470831059233893) \g /dev/null
SELECT current_setting('server_version_num')::int >= 160000 AS has_membership_options \gset

-- roles
-- owns the database, schema app and everything in it
SELECT 'CREATE ROLE "app_owner"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_owner') \gexec
ALTER ROLE "app_owner" NOLOGIN NOSUPERUSER INHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT -1;
-- owns schema dbsec: keyring, journal, versions
SELECT 'CREATE ROLE "dbsec_owner"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dbsec_owner') \gexec
ALTER ROLE "dbsec_owner" NOLOGIN NOSUPERUSER INHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT -1;
-- reads and writes rows, and of tenants only reads; no TRUNCATE, no REFERENCES, no TRIGGER, no DDL
SELECT 'CREATE ROLE "app_readwrite"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_readwrite') \gexec
ALTER ROLE "app_readwrite" NOLOGIN NOSUPERUSER INHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT -1;
-- reads orders and, of people, nothing that names them
SELECT 'CREATE ROLE "app_readonly"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_readonly') \gexec
ALTER ROLE "app_readonly" NOLOGIN NOSUPERUSER INHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT -1;
-- runs the functions that set a tenant's context; has no member
SELECT 'CREATE ROLE "dbsec_ctx"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dbsec_ctx') \gexec
ALTER ROLE "dbsec_ctx" NOLOGIN NOSUPERUSER INHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT -1;
-- the service
SELECT 'CREATE ROLE "app_gateway"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_gateway') \gexec
ALTER ROLE "app_gateway" LOGIN NOSUPERUSER INHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 40;
-- changes the schema; logs in with a client certificate
SELECT 'CREATE ROLE "app_migrator"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_migrator') \gexec
ALTER ROLE "app_migrator" LOGIN NOSUPERUSER NOINHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 10;
-- base backups and WAL over the replication protocol; logs in with a client certificate
SELECT 'CREATE ROLE "app_backup"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_backup') \gexec
ALTER ROLE "app_backup" LOGIN NOSUPERUSER INHERIT NOCREATEDB NOCREATEROLE REPLICATION NOBYPASSRLS CONNECTION LIMIT 4;
-- rotates keys and passwords; gets its rights with what it rotates
SELECT 'CREATE ROLE "app_rotator"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_rotator') \gexec
ALTER ROLE "app_rotator" LOGIN NOSUPERUSER INHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 2;
-- reports and dashboards
SELECT 'CREATE ROLE "app_bi"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_bi') \gexec
ALTER ROLE "app_bi" LOGIN NOSUPERUSER INHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 5;
-- a person in an emergency; shut until it is opened, and shut again by the next apply
SELECT 'CREATE ROLE "app_breakglass"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_breakglass') \gexec
ALTER ROLE "app_breakglass" NOLOGIN NOSUPERUSER INHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 2;

-- memberships
\if :has_membership_options
GRANT "pg_read_all_stats" TO "app_owner" WITH ADMIN FALSE, INHERIT TRUE, SET TRUE;
GRANT "app_readwrite" TO "app_gateway" WITH ADMIN FALSE, INHERIT TRUE, SET TRUE;
GRANT "app_owner" TO "app_migrator" WITH ADMIN FALSE, INHERIT FALSE, SET TRUE;
GRANT "app_readonly" TO "app_bi" WITH ADMIN FALSE, INHERIT TRUE, SET TRUE;
GRANT "app_readwrite" TO "app_breakglass" WITH ADMIN FALSE, INHERIT TRUE, SET TRUE;
GRANT "pg_monitor" TO "app_breakglass" WITH ADMIN FALSE, INHERIT TRUE, SET TRUE;
GRANT "pg_signal_backend" TO "app_breakglass" WITH ADMIN FALSE, INHERIT TRUE, SET TRUE;
\else
GRANT "pg_read_all_stats" TO "app_owner";
GRANT "app_readwrite" TO "app_gateway";
GRANT "app_owner" TO "app_migrator";
GRANT "app_readonly" TO "app_bi";
GRANT "app_readwrite" TO "app_breakglass";
GRANT "pg_monitor" TO "app_breakglass";
GRANT "pg_signal_backend" TO "app_breakglass";
\endif

-- settings, which count from the next login on
ALTER ROLE "app_gateway" RESET ALL;
ALTER ROLE "app_gateway" SET "statement_timeout" = '5s';
ALTER ROLE "app_gateway" SET "lock_timeout" = '2s';
ALTER ROLE "app_gateway" SET "idle_in_transaction_session_timeout" = '10s';
ALTER ROLE "app_migrator" RESET ALL;
ALTER ROLE "app_migrator" SET "role" = 'app_owner';
ALTER ROLE "app_migrator" SET "log_statement" = 'ddl';
ALTER ROLE "app_migrator" SET "lock_timeout" = '500ms';
ALTER ROLE "app_migrator" SET "idle_in_transaction_session_timeout" = '60s';
ALTER ROLE "app_backup" RESET ALL;
ALTER ROLE "app_rotator" RESET ALL;
ALTER ROLE "app_rotator" SET "statement_timeout" = '30s';
ALTER ROLE "app_rotator" SET "lock_timeout" = '500ms';
ALTER ROLE "app_rotator" SET "idle_in_transaction_session_timeout" = '30s';
ALTER ROLE "app_rotator" SET "log_statement" = 'ddl';
ALTER ROLE "app_bi" RESET ALL;
ALTER ROLE "app_bi" SET "default_transaction_read_only" = 'on';
ALTER ROLE "app_bi" SET "statement_timeout" = '60s';
ALTER ROLE "app_bi" SET "idle_in_transaction_session_timeout" = '60s';
ALTER ROLE "app_breakglass" RESET ALL;
ALTER ROLE "app_breakglass" SET "log_statement" = 'all';
ALTER ROLE "app_breakglass" SET "idle_in_transaction_session_timeout" = '60s';

-- the database
ALTER DATABASE "app" OWNER TO "app_owner";
REVOKE ALL ON DATABASE "app" FROM PUBLIC, "dbsec_owner", "app_readwrite", "app_readonly", "dbsec_ctx", "app_gateway", "app_migrator", "app_backup", "app_rotator", "app_bi", "app_breakglass" CASCADE;
GRANT CONNECT ON DATABASE "app" TO "app_readwrite", "app_readonly", "app_migrator", "app_rotator";

-- schemas and owners
CREATE SCHEMA IF NOT EXISTS "app" AUTHORIZATION "app_owner";
ALTER SCHEMA "app" OWNER TO "app_owner";
SELECT format('ALTER TYPE %I.%I OWNER TO %I', n.nspname, t.typname, 'app_owner')
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
 WHERE n.nspname = 'app' AND t.typowner <> quote_ident('app_owner')::regrole AND t.typtype IN ('b', 'c', 'd', 'e', 'r')
   AND coalesce(c.relkind, 'c') = 'c' AND t.typcategory <> 'A'
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
 ORDER BY 1 \gexec
SELECT format('ALTER ROUTINE %s OWNER TO %I', p.oid::regprocedure, 'app_owner')
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = 'app' AND p.proowner <> quote_ident('app_owner')::regrole
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
 ORDER BY 1 \gexec
SELECT format('ALTER TABLE %I.%I OWNER TO %I', n.nspname, c.relname, 'app_owner')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'app' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
   AND c.relowner <> quote_ident('app_owner')::regrole
   -- the sequence of a column follows its table; what belongs to an extension stays with it
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                     AND (d.deptype = 'e' OR c.relkind = 'S' AND d.deptype IN ('a', 'i')))
 ORDER BY 1 \gexec
REVOKE CREATE ON SCHEMA "public" FROM PUBLIC, "app_owner", "dbsec_owner", "app_readwrite", "app_readonly", "dbsec_ctx", "app_gateway", "app_migrator", "app_backup", "app_rotator", "app_bi", "app_breakglass" CASCADE;

-- rights
REVOKE ALL ON SCHEMA "app" FROM PUBLIC, "dbsec_owner", "app_readwrite", "app_readonly", "dbsec_ctx", "app_gateway", "app_migrator", "app_backup", "app_rotator", "app_bi", "app_breakglass" CASCADE;
SELECT format('REVOKE ALL ON TABLE %I.%I FROM PUBLIC, "dbsec_owner", "app_readwrite", "app_readonly", "dbsec_ctx", "app_gateway", "app_migrator", "app_backup", "app_rotator", "app_bi", "app_breakglass" CASCADE', n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'app' AND c.relkind = ANY ('{r,p,v,m,f}') AND true
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY 1 \gexec
SELECT format('REVOKE ALL ON SEQUENCE %I.%I FROM PUBLIC, "dbsec_owner", "app_readwrite", "app_readonly", "dbsec_ctx", "app_gateway", "app_migrator", "app_backup", "app_rotator", "app_bi", "app_breakglass" CASCADE', n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'app' AND c.relkind = ANY ('{S}') AND true
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY 1 \gexec
SELECT format('REVOKE ALL ON ROUTINE %s FROM PUBLIC, "dbsec_owner", "app_readwrite", "app_readonly", "dbsec_ctx", "app_gateway", "app_migrator", "app_backup", "app_rotator", "app_bi", "app_breakglass" CASCADE', p.oid::regprocedure)
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = 'app' AND true
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
 ORDER BY 1 \gexec
GRANT USAGE ON SCHEMA "app" TO "app_readwrite", "app_readonly";
SELECT format('GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE %I.%I TO "app_readwrite"', n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'app' AND c.relkind = ANY ('{r,p,v,m,f}') AND NOT c.relispartition AND c.relname <> ALL ('{tenants}')
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY 1 \gexec
GRANT SELECT ON TABLE "app"."tenants" TO "app_readwrite";
GRANT SELECT ON TABLE "app"."orders" TO "app_readonly";
GRANT SELECT ("id", "tenant_id", "created_at") ON TABLE "app"."users" TO "app_readonly";
GRANT SELECT ("id", "slug", "name") ON TABLE "app"."tenants" TO "app_readonly";
GRANT USAGE ON SEQUENCE "app"."users_id_seq" TO "app_readwrite";

-- rights on what comes later
ALTER DEFAULT PRIVILEGES FOR ROLE "app_owner" REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE "dbsec_owner" REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE "app_owner" IN SCHEMA "app" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO "app_readwrite";

COMMIT;
