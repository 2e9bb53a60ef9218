"""The rules on locks, rewrites and scans: what each statement must be told for, on which schema, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from dbsec.findings import Severity
from dbsec.migrations.linter import Located, Options, lint
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script, Wrap

SCHEMA = """
CREATE SCHEMA app;
CREATE DOMAIN app.plain AS text;
CREATE DOMAIN app.email AS text CHECK (VALUE LIKE '%@%');
CREATE TABLE users (
    id bigint PRIMARY KEY,
    email varchar(100) CONSTRAINT users_email_check CHECK (email <> ''),
    name varchar(50),
    code varchar(10),
    nick text COLLATE "C",
    born timestamp,
    seen timestamp,
    age integer NOT NULL,
    score numeric(10, 2),
    address app.plain
);
CREATE INDEX users_code_idx ON users (lower(code));
CREATE INDEX users_seen_idx ON users (seen);
CREATE INDEX users_name_idx ON users (name);
CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint, total integer, note text, state text NOT NULL);
CREATE INDEX orders_user_idx ON orders (user_id);
CREATE TABLE app."Order Lines" ("Id" bigint PRIMARY KEY, "Order" bigint, "select" integer);
CREATE TABLE events (id bigint, day date NOT NULL, kind text) PARTITION BY RANGE (day);
CREATE TABLE events_2024 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE events_rest PARTITION OF events DEFAULT;
CREATE TABLE events_2026 (id bigint, day date NOT NULL, kind text);
CREATE TABLE logs (id bigint, day date NOT NULL) PARTITION BY RANGE (day);
CREATE TABLE logs_2024 PARTITION OF logs FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE logs_2025 (id bigint, day date NOT NULL);
CREATE TABLE legs (id bigint, started timestamptz NOT NULL) PARTITION BY RANGE (started);
CREATE TABLE legs_rest PARTITION OF legs DEFAULT;
CREATE TABLE legs_2028 (id bigint, started timestamptz NOT NULL);
CREATE MATERIALIZED VIEW sales AS SELECT user_id, count(*) AS n FROM orders GROUP BY user_id;
CREATE UNIQUE INDEX sales_user_idx ON sales (user_id);
CREATE TABLE keyless (id bigint, mail text);
CREATE UNIQUE INDEX keyless_id_idx ON keyless (id);
"""
AROUND = (
    "ALTER TABLE legs_rest ADD CONSTRAINT z CHECK (started < '2027-01-01' OR started >= '2028-01-01') NOT VALID;"
    "ALTER TABLE legs_rest VALIDATE CONSTRAINT z;"
)
LEGS_2027 = "CREATE TABLE legs_2027 PARTITION OF legs FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')"


@dataclass(frozen=True)
class Case:
    sql: str
    codes: tuple[str, ...] = ()
    major: int = 17
    known: bool = True
    wrap: Wrap = Wrap.NONE
    setup: str = SCHEMA


def run(case: Case) -> list[Located]:
    scripts = [Script("release.sql", case.sql, wrap=case.wrap)]
    if case.known:
        scripts.insert(0, Script("schema.sql", case.setup, deployed=True))
    result = lint(scripts, schema=Schema(known=case.known), options=Options(major=case.major))
    assert not result.unread, result.unread
    return [found for found in result.located if found.rule.code[:4] in ("MIG1", "MIG2")]


def codes(case: Case, severity: Severity) -> list[str]:
    return sorted(found.rule.code for found in run(case) if found.finding.severity is severity)


ERRORS = {
    # --- 101: CREATE INDEX
    "index": Case("CREATE INDEX ON users (name)", ("MIG101",)),
    "unique index": Case("CREATE UNIQUE INDEX u ON users (name) WHERE age > 3", ("MIG101",)),
    "index if not exists": Case("CREATE INDEX IF NOT EXISTS u ON users (name)", ("MIG101",)),
    "index on a quoted table": Case('CREATE INDEX "New Idx" ON app."Order Lines" ("Order")', ("MIG101",)),
    "index of an unknown table": Case("CREATE INDEX ON whatever (x)", ("MIG101",), known=False),
    "index concurrently": Case("CREATE INDEX CONCURRENTLY ON users (name)"),
    "index on a new table": Case("CREATE TABLE t (a int); CREATE INDEX ON t (a)"),
    "index on a new table, schema unknown": Case("CREATE TABLE t (a int); CREATE INDEX ON t (a)", known=False),
    "index on a filled new table": Case("CREATE TABLE t AS SELECT id FROM users; CREATE INDEX ON t (id)"),
    "index on a filled new table that old writers feed": Case(
        "CREATE TABLE t AS SELECT id FROM users;"
        "CREATE TRIGGER feed AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION feed(); CREATE INDEX ON t (id)",
        ("MIG101",),
    ),
    "index in a DO block": Case("DO $$ BEGIN CREATE INDEX ON users (name); END $$", ("MIG101",)),
    "index by EXECUTE": Case("DO $$ BEGIN EXECUTE 'CREATE INDEX ON users (name)'; END $$", ("MIG101",)),
    "index on a materialized view": Case("CREATE INDEX ON sales (n)", ("MIG101",)),
    "index in a transaction": Case("BEGIN; CREATE INDEX ON users (name); COMMIT", ("MIG101",)),
    "index on a temporary table": Case("CREATE TEMP TABLE t (a int); CREATE INDEX ON t (a)"),
    # --- 102 to 107
    "drop index": Case("DROP INDEX users_name_idx"),
    "reindex index": Case("REINDEX INDEX users_name_idx", ("MIG103",)),
    "reindex table": Case("REINDEX TABLE users", ("MIG103",)),
    "reindex with options": Case("REINDEX (VERBOSE) TABLE users", ("MIG103",)),
    "reindex schema": Case("REINDEX SCHEMA public", ("MIG103",)),
    "reindex concurrently": Case("REINDEX TABLE CONCURRENTLY users"),
    "reindex concurrently as an option": Case("REINDEX (CONCURRENTLY) TABLE users"),
    "reindex of a new table": Case("CREATE TABLE t (a int PRIMARY KEY); REINDEX TABLE t"),
    "refresh": Case("REFRESH MATERIALIZED VIEW sales", ("MIG104",)),
    "refresh concurrently": Case("REFRESH MATERIALIZED VIEW CONCURRENTLY sales"),
    "refresh with no data": Case("REFRESH MATERIALIZED VIEW sales WITH NO DATA", ("MIG104",)),
    "refresh of a new view": Case(
        "CREATE MATERIALIZED VIEW m AS SELECT id FROM users WITH NO DATA; REFRESH MATERIALIZED VIEW m"
    ),
    "refresh of an unknown view": Case("REFRESH MATERIALIZED VIEW m", ("MIG104",), known=False),
    "vacuum full": Case("VACUUM FULL users", ("MIG105",)),
    "vacuum full as an option": Case("VACUUM (FULL, ANALYZE) users, orders", ("MIG105", "MIG105")),
    "vacuum full off": Case("VACUUM (FULL false) users"),
    "vacuum": Case("VACUUM (ANALYZE) users"),
    "analyze": Case("ANALYZE users"),
    "cluster": Case("CLUSTER users USING users_name_idx", ("MIG105",)),
    "cluster everything": Case("CLUSTER", ("MIG105",)),
    "vacuum full of a new table": Case("CREATE TABLE t (a int); VACUUM FULL t"),
    "detach": Case("ALTER TABLE events DETACH PARTITION events_2024"),
    "lock table": Case("BEGIN; LOCK TABLE users; COMMIT", ("MIG107",)),
    "lock table in share mode": Case("BEGIN; LOCK TABLE users IN SHARE MODE; COMMIT", ("MIG107",)),
    "lock two tables": Case("BEGIN; LOCK TABLE users, orders IN EXCLUSIVE MODE; COMMIT", ("MIG107", "MIG107")),
    "lock table nowait": Case("BEGIN; LOCK TABLE users NOWAIT; COMMIT"),
    "lock table in row exclusive mode": Case("BEGIN; LOCK TABLE users IN ROW EXCLUSIVE MODE; COMMIT"),
    "lock a new table": Case("BEGIN; CREATE TABLE t (a int); LOCK TABLE t; COMMIT"),
    # --- 108, 109: keys and exclusion
    "unique": Case("ALTER TABLE users ADD UNIQUE (name)", ("MIG108",)),
    "unique named": Case("ALTER TABLE users ADD CONSTRAINT u UNIQUE (name, code)", ("MIG108",)),
    "unique using index": Case(
        "CREATE UNIQUE INDEX CONCURRENTLY u ON users (name); ALTER TABLE users ADD CONSTRAINT u UNIQUE USING INDEX u"
    ),
    "unique using an index that stands": Case(
        "ALTER TABLE keyless ADD CONSTRAINT keyless_id UNIQUE USING INDEX keyless_id_idx"
    ),
    "primary key": Case("ALTER TABLE keyless ADD PRIMARY KEY (id)", ("MIG108",)),
    "primary key using index, nullable": Case(
        "ALTER TABLE keyless ADD PRIMARY KEY USING INDEX keyless_id_idx", ("MIG211",)
    ),
    "primary key using index, not null by proof": Case(
        "ALTER TABLE keyless ADD CONSTRAINT c CHECK (id IS NOT NULL) NOT VALID;"
        "ALTER TABLE keyless VALIDATE CONSTRAINT c; ALTER TABLE keyless ALTER COLUMN id SET NOT NULL;"
        "ALTER TABLE keyless ADD PRIMARY KEY USING INDEX keyless_id_idx"
    ),
    "inline unique": Case("ALTER TABLE users ADD COLUMN x int UNIQUE", ("MIG108",)),
    "inline primary key without a value, which fails": Case("ALTER TABLE keyless ADD COLUMN x int PRIMARY KEY"),
    "unique of a quoted table": Case('ALTER TABLE app."Order Lines" ADD UNIQUE ("Order")', ("MIG108",)),
    "unique on a partitioned table": Case("ALTER TABLE events ADD UNIQUE (id, day)", ("MIG108",)),
    "unique on a new table": Case("CREATE TABLE t (a int); ALTER TABLE t ADD UNIQUE (a)"),
    "unique on an unknown table": Case("ALTER TABLE t ADD UNIQUE (a)", ("MIG108",), known=False),
    "exclude": Case("ALTER TABLE orders ADD EXCLUDE USING gist (total WITH =)", ("MIG109",)),
    "exclude on a new table": Case("CREATE TABLE t (a int4range, EXCLUDE USING gist (a WITH &&))"),
    # --- 110 to 114 are warnings, but for 113
    "create table references": Case("CREATE TABLE t (a bigint REFERENCES users)"),
    "drop a foreign key": Case("ALTER TABLE orders DROP CONSTRAINT IF EXISTS orders_user_fkey"),
    "two tables in a transaction": Case(
        "BEGIN; ALTER TABLE users ADD COLUMN x int; ALTER TABLE orders ADD COLUMN x int; COMMIT"
    ),
    "validate in the transaction of NOT VALID": Case(
        "BEGIN; ALTER TABLE orders ADD CONSTRAINT c CHECK (total > 0) NOT VALID;"
        "ALTER TABLE orders VALIDATE CONSTRAINT c; COMMIT",
        ("MIG113",),
    ),
    "validate in a file that a tool wraps": Case(
        "ALTER TABLE orders ADD CONSTRAINT c CHECK (total > 0) NOT VALID; ALTER TABLE orders VALIDATE CONSTRAINT c",
        ("MIG113",),
        wrap=Wrap.FILE,
    ),
    "validate in one statement": Case(
        "ALTER TABLE orders ADD CONSTRAINT c CHECK (total > 0) NOT VALID, VALIDATE CONSTRAINT c", ("MIG113",)
    ),
    "validate apart": Case(
        "ALTER TABLE orders ADD CONSTRAINT c CHECK (total > 0) NOT VALID; ALTER TABLE orders VALIDATE CONSTRAINT c"
    ),
    "validate alone in a transaction": Case(
        "BEGIN; ALTER TABLE orders ADD CONSTRAINT c CHECK (total > 0) NOT VALID; COMMIT;"
        "BEGIN; ALTER TABLE orders VALIDATE CONSTRAINT c; COMMIT"
    ),
    "validate while another table is locked": Case(
        "ALTER TABLE orders ADD CONSTRAINT c CHECK (total > 0) NOT VALID;"
        "BEGIN; ALTER TABLE users ADD COLUMN x int; ALTER TABLE orders VALIDATE CONSTRAINT c; COMMIT",
        ("MIG113",),
    ),
    "a new table filled while another is locked": Case(
        "BEGIN; ALTER TABLE users ADD COLUMN x int; CREATE TABLE t AS SELECT * FROM orders; COMMIT", ("MIG113",)
    ),
    "a new table in the transaction": Case(
        "BEGIN; CREATE TABLE t (a int); CREATE INDEX ON t (a); ALTER TABLE users ADD COLUMN x int; COMMIT"
    ),
    "a lock that only VACUUM feels": Case(
        "BEGIN; COMMENT ON TABLE users IS 'x'; ALTER TABLE orders ALTER COLUMN total SET STATISTICS 500; COMMIT"
    ),
    # --- 115: indexes of partitioned tables
    "index on a partitioned table": Case("CREATE INDEX ON events (kind)", ("MIG115",)),
    "index concurrently on a partitioned table": Case("CREATE INDEX CONCURRENTLY ON events (kind)", ("MIG115",)),
    "index on only a partitioned table": Case("CREATE INDEX i ON ONLY events (kind)"),
    "index by partition": Case(
        "CREATE INDEX i ON ONLY events (kind); CREATE INDEX CONCURRENTLY i1 ON events_2024 (kind);"
        "ALTER INDEX i ATTACH PARTITION i1"
    ),
    "index on a partition": Case("CREATE INDEX ON events_2024 (kind)", ("MIG101",)),
    "index on a new partitioned table": Case(
        "CREATE TABLE t (a int) PARTITION BY LIST (a); CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);"
        "CREATE INDEX ON t (a)"
    ),
    # --- 201, 213: types
    "int to bigint": Case("ALTER TABLE orders ALTER COLUMN total TYPE bigint", ("MIG201",)),
    "int to bigint with USING": Case("ALTER TABLE orders ALTER total TYPE bigint USING total::bigint", ("MIG201",)),
    "set data type": Case("ALTER TABLE orders ALTER COLUMN total SET DATA TYPE text", ("MIG201",)),
    "shorter varchar": Case("ALTER TABLE users ALTER COLUMN name TYPE varchar(20)", ("MIG201",)),
    "longer varchar": Case("ALTER TABLE users ALTER COLUMN name TYPE varchar(80)"),
    "varchar to text": Case("ALTER TABLE users ALTER COLUMN name TYPE text"),
    "varchar to text with USING": Case("ALTER TABLE users ALTER COLUMN name TYPE text USING name::text"),
    "longer varchar under a CHECK": Case("ALTER TABLE users ALTER COLUMN email TYPE varchar(200)", ("MIG213",)),
    "longer varchar in an expression index": Case("ALTER TABLE users ALTER COLUMN code TYPE varchar(20)", ("MIG213",)),
    "wider numeric": Case("ALTER TABLE users ALTER COLUMN score TYPE numeric(12, 2)"),
    "other scale": Case("ALTER TABLE users ALTER COLUMN score TYPE numeric(12, 3)", ("MIG201",)),
    "timestamptz, zone not known": Case("ALTER TABLE users ALTER COLUMN born TYPE timestamptz", ("MIG201",)),
    "timestamptz under UTC": Case("SET timezone = 'UTC'; ALTER TABLE users ALTER COLUMN born TYPE timestamptz"),
    "timestamptz under UTC, indexed": Case(
        "SET timezone = 'UTC'; ALTER TABLE users ALTER COLUMN seen TYPE timestamptz", ("MIG213",)
    ),
    "collation of an index with its own": Case(
        'CREATE INDEX CONCURRENTLY i ON orders (note COLLATE "C"); ALTER TABLE orders ALTER note TYPE text COLLATE "C"'
    ),
    "collation of an index with the column's": Case(
        'CREATE INDEX CONCURRENTLY i ON users (nick COLLATE "C");'
        'ALTER TABLE users ALTER nick TYPE text COLLATE "POSIX"',
        ("MIG213",),
    ),
    "collation": Case('ALTER TABLE users ALTER COLUMN nick TYPE text COLLATE "POSIX"'),
    "collation of an indexed column": Case(
        'ALTER TABLE users ALTER COLUMN name TYPE varchar(50) COLLATE "C"', ("MIG213",)
    ),
    "type of an unknown column": Case("ALTER TABLE t ALTER COLUMN a TYPE text", ("MIG201",), known=False),
    "type on a new table": Case("CREATE TABLE t (a int); ALTER TABLE t ALTER COLUMN a TYPE bigint"),
    "type on a partitioned table": Case("ALTER TABLE events ALTER COLUMN id TYPE text", ("MIG201",)),
    "two types": Case(
        "ALTER TABLE orders ALTER COLUMN total TYPE bigint, ALTER COLUMN note TYPE varchar(5)", ("MIG201", "MIG201")
    ),
    "a type that is changed back and forth": Case(
        "ALTER TABLE users ALTER COLUMN name TYPE text; ALTER TABLE users ALTER COLUMN name TYPE varchar(50)",
        ("MIG201",),
    ),
    # --- 202 to 205: ADD COLUMN
    "column": Case("ALTER TABLE users ADD COLUMN x int"),
    "column with a constant": Case("ALTER TABLE users ADD COLUMN x int NOT NULL DEFAULT 5"),
    "column with now()": Case("ALTER TABLE users ADD COLUMN x timestamptz NOT NULL DEFAULT now()"),
    "column with a volatile default": Case(
        "ALTER TABLE users ADD COLUMN x uuid DEFAULT gen_random_uuid()", ("MIG202",)
    ),
    "column with clock_timestamp": Case(
        "ALTER TABLE users ADD COLUMN x timestamptz DEFAULT clock_timestamp() NOT NULL", ("MIG202",)
    ),
    "column with nextval": Case(
        "CREATE SEQUENCE s; ALTER TABLE users ADD COLUMN x bigint DEFAULT nextval('s')", ("MIG202",)
    ),
    "column with an unknown function": Case(
        "ALTER TABLE users ADD COLUMN x text DEFAULT mine()", ("MIG202",), known=False
    ),
    "column with a volatile default and a check": Case(
        "ALTER TABLE users ADD COLUMN x float8 DEFAULT random() CHECK (x >= 0)", ("MIG202",)
    ),
    "serial": Case("ALTER TABLE users ADD COLUMN x bigserial", ("MIG203",)),
    "serial primary key": Case("ALTER TABLE keyless ADD COLUMN x serial PRIMARY KEY", ("MIG203",)),
    "identity": Case("ALTER TABLE users ADD COLUMN x bigint GENERATED ALWAYS AS IDENTITY", ("MIG203",)),
    "stored": Case("ALTER TABLE users ADD COLUMN x text GENERATED ALWAYS AS (lower(name)) STORED", ("MIG204",)),
    "virtual": Case("ALTER TABLE users ADD COLUMN x int GENERATED ALWAYS AS (age * 2) VIRTUAL", major=18),
    "constrained domain": Case("ALTER TABLE users ADD COLUMN x app.email", ("MIG205",)),
    "plain domain": Case("ALTER TABLE users ADD COLUMN x app.plain"),
    "a domain of this release": Case(
        "CREATE DOMAIN app.short AS text CHECK (length(VALUE) < 9); ALTER TABLE users ADD COLUMN x app.short",
        ("MIG205",),
    ),
    "volatile default on a new table": Case(
        "CREATE TABLE t (a int); ALTER TABLE t ADD COLUMN x uuid DEFAULT gen_random_uuid()"
    ),
    "volatile default that is set afterwards": Case(
        "ALTER TABLE users ADD COLUMN x uuid; ALTER TABLE users ALTER COLUMN x SET DEFAULT gen_random_uuid()"
    ),
    "two columns, one volatile": Case(
        "ALTER TABLE users ADD COLUMN x int DEFAULT 3, ADD COLUMN y float8 DEFAULT random()", ("MIG202",)
    ),
    "set expression": Case(
        "ALTER TABLE t ALTER COLUMN b SET EXPRESSION AS (a * 3)",
        ("MIG204",),
        setup="CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a * 2) STORED);",
    ),
    "drop expression": Case(
        "ALTER TABLE t ALTER COLUMN b DROP EXPRESSION",
        setup="CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a * 2) STORED);",
    ),
    # --- 206: NOT NULL
    "set not null": Case("ALTER TABLE users ALTER COLUMN name SET NOT NULL", ("MIG206",)),
    "set not null, 18": Case("ALTER TABLE users ALTER COLUMN name SET NOT NULL", ("MIG206",), major=18),
    "set not null over a proof": Case(
        "ALTER TABLE users ADD CONSTRAINT c CHECK (name IS NOT NULL) NOT VALID;"
        "ALTER TABLE users VALIDATE CONSTRAINT c; ALTER TABLE users ALTER COLUMN name SET NOT NULL"
    ),
    "set not null over a CHECK that is not validated": Case(
        "ALTER TABLE users ADD CONSTRAINT c CHECK (name IS NOT NULL) NOT VALID;"
        "ALTER TABLE users ALTER COLUMN name SET NOT NULL",
        ("MIG206",),
    ),
    "set not null over the CHECK of another column": Case(
        "ALTER TABLE users ADD CONSTRAINT c CHECK (code IS NOT NULL) NOT VALID;"
        "ALTER TABLE users VALIDATE CONSTRAINT c; ALTER TABLE users ALTER COLUMN name SET NOT NULL",
        ("MIG206",),
    ),
    "set not null over OR": Case(
        "ALTER TABLE users ADD CONSTRAINT c CHECK (name IS NOT NULL OR age > 3) NOT VALID;"
        "ALTER TABLE users VALIDATE CONSTRAINT c; ALTER TABLE users ALTER COLUMN name SET NOT NULL",
        ("MIG206",),
    ),
    "set not null over AND": Case(
        "ALTER TABLE users ADD CONSTRAINT c CHECK (name IS NOT NULL AND age > 3) NOT VALID;"
        "ALTER TABLE users VALIDATE CONSTRAINT c; ALTER TABLE users ALTER COLUMN name SET NOT NULL"
    ),
    "set not null of what is not null": Case("ALTER TABLE users ALTER COLUMN age SET NOT NULL"),
    "set not null over NOT NULL NOT VALID": Case(
        "ALTER TABLE users ADD CONSTRAINT n NOT NULL name NOT VALID; ALTER TABLE users ALTER COLUMN name SET NOT NULL",
        ("MIG206",),
        major=18,
    ),
    "validate NOT NULL NOT VALID": Case(
        "ALTER TABLE users ADD CONSTRAINT n NOT NULL name NOT VALID; ALTER TABLE users VALIDATE CONSTRAINT n", major=18
    ),
    "add not null": Case("ALTER TABLE users ADD CONSTRAINT n NOT NULL name", ("MIG206",), major=18),
    "set not null, unknown": Case("ALTER TABLE t ALTER COLUMN a SET NOT NULL", ("MIG206",), known=False),
    "set not null on a new table": Case("CREATE TABLE t (a int); ALTER TABLE t ALTER COLUMN a SET NOT NULL"),
    # --- 207: CHECK
    "check": Case("ALTER TABLE orders ADD CHECK (total > 0)", ("MIG207",)),
    "check not valid": Case("ALTER TABLE orders ADD CHECK (total > 0) NOT VALID"),
    "check not enforced": Case("ALTER TABLE orders ADD CONSTRAINT c CHECK (total > 0) NOT ENFORCED", major=18),
    "inline check": Case("ALTER TABLE orders ADD COLUMN x int CHECK (x > 0)", ("MIG207",)),
    "inline check and constant": Case("ALTER TABLE orders ADD COLUMN x int DEFAULT 3 CHECK (x > 0)", ("MIG207",)),
    "check on a new table": Case("CREATE TABLE t (a int); ALTER TABLE t ADD CHECK (a > 0)"),
    "check on a filled new table": Case(
        "CREATE TABLE t (a int); INSERT INTO t SELECT id FROM users; ALTER TABLE t ADD CHECK (a > 0)"
    ),
    "check among harmless clauses": Case(
        "ALTER TABLE orders ADD COLUMN x int, ADD CONSTRAINT c CHECK (total > 0), ALTER COLUMN note SET DEFAULT 'a'",
        ("MIG207",),
    ),
    "check on a partitioned table": Case("ALTER TABLE events ADD CHECK (id > 0)", ("MIG207",)),
    # --- 208: FOREIGN KEY
    "foreign key": Case("ALTER TABLE orders ADD FOREIGN KEY (user_id) REFERENCES users", ("MIG208",)),
    "foreign key not valid": Case("ALTER TABLE orders ADD FOREIGN KEY (user_id) REFERENCES users NOT VALID"),
    "foreign key validated apart": Case(
        "ALTER TABLE orders ADD CONSTRAINT f FOREIGN KEY (user_id) REFERENCES users NOT VALID;"
        "ALTER TABLE orders VALIDATE CONSTRAINT f"
    ),
    "inline references": Case("ALTER TABLE orders ADD COLUMN x bigint REFERENCES users"),
    "inline references with a default": Case(
        "ALTER TABLE orders ADD COLUMN x bigint DEFAULT 1 REFERENCES users", ("MIG208",)
    ),
    "foreign key of a new table": Case("CREATE TABLE t (a bigint); ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES users"),
    "foreign key not enforced": Case(
        "ALTER TABLE orders ADD FOREIGN KEY (user_id) REFERENCES users NOT ENFORCED", major=18
    ),
    "enforced later": Case(
        "ALTER TABLE orders ADD CONSTRAINT f FOREIGN KEY (user_id) REFERENCES users NOT ENFORCED;"
        "ALTER TABLE orders ALTER CONSTRAINT f ENFORCED",
        ("MIG215",),
        major=18,
    ),
    # --- 209, 210: partitions
    "attach": Case(
        "ALTER TABLE logs ATTACH PARTITION logs_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')", ("MIG209",)
    ),
    "attach with a proof": Case(
        "ALTER TABLE logs_2025 ADD CONSTRAINT b CHECK (day >= '2025-01-01' AND day < '2026-01-01') NOT VALID;"
        "ALTER TABLE logs_2025 VALIDATE CONSTRAINT b;"
        "ALTER TABLE logs ATTACH PARTITION logs_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')"
    ),
    "attach with a proof that is too wide": Case(
        "ALTER TABLE logs_2025 ADD CONSTRAINT b CHECK (day >= '2024-01-01' AND day < '2026-01-01') NOT VALID;"
        "ALTER TABLE logs_2025 VALIDATE CONSTRAINT b;"
        "ALTER TABLE logs ATTACH PARTITION logs_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
        ("MIG209",),
    ),
    "attach beside a default": Case(
        "ALTER TABLE events_2026 ADD CONSTRAINT b CHECK (day >= '2026-01-01' AND day < '2027-01-01') NOT VALID;"
        "ALTER TABLE events_2026 VALIDATE CONSTRAINT b;"
        "ALTER TABLE events ATTACH PARTITION events_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
        ("MIG209",),
    ),
    "attach a new table": Case(
        "CREATE TABLE logs_2027 (LIKE logs);"
        "ALTER TABLE logs ATTACH PARTITION logs_2027 FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')"
    ),
    "attach a new table beside a default": Case(
        "CREATE TABLE events_2027 (LIKE events);"
        "ALTER TABLE events ATTACH PARTITION events_2027 FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')",
        ("MIG209",),
    ),
    "partition of": Case("CREATE TABLE logs_2027 PARTITION OF logs FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')"),
    "partition of beside a default": Case(
        "CREATE TABLE events_2027 PARTITION OF events FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')", ("MIG210",)
    ),
    "partition of beside a default with a proof": Case(
        "ALTER TABLE events_rest ADD CONSTRAINT b CHECK (day < '2027-01-01' OR day >= '2028-01-01') NOT VALID;"
        "ALTER TABLE events_rest VALIDATE CONSTRAINT b;"
        "CREATE TABLE events_2027 PARTITION OF events FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')"
    ),
    "proof of a default, without offset": Case(AROUND + LEGS_2027),
    "proof of a default, under UTC": Case("SET timezone = 'UTC';" + AROUND + LEGS_2027),
    "proof of a default, another day": Case(AROUND.replace("2028-01-01", "2027-12-31") + LEGS_2027, ("MIG210",)),
    "proof of a default, one with an offset": Case(
        AROUND.replace("-01-01'", "-01-01 00:00:00+00'") + LEGS_2027, ("MIG210",)
    ),
    "proof of a default, one with an offset, under UTC": Case(
        "SET timezone = 'UTC';" + AROUND.replace("-01-01'", "-01-01 00:00:00+00'") + LEGS_2027
    ),
    "proof of a default, the same hours": Case((AROUND + LEGS_2027).replace("-01-01'", "-01-01 02:00'")),
    "proof of a default, other hours": Case(
        (AROUND.replace("2028-01-01'", "2028-01-01 02:30'") + LEGS_2027.replace("2028-01-01'", "2028-01-01 03:00'")),
        ("MIG210",),
    ),
    "proof of a default, a date": Case(AROUND.replace("< '", "< DATE '") + LEGS_2027, ("MIG210",)),
    "proof of a bound, without offset": Case(
        "ALTER TABLE legs_2028 ADD CONSTRAINT b CHECK (started >= '2028-02-01' AND started < '2028-12-31') NOT VALID;"
        "ALTER TABLE legs_2028 VALIDATE CONSTRAINT b;"
        + AROUND.replace("2028", "2029").replace("2027", "2028")
        + "ALTER TABLE legs ATTACH PARTITION legs_2028 FOR VALUES FROM ('2028-01-01') TO ('2029-01-01')"
    ),
    "detach concurrently": Case("ALTER TABLE logs DETACH PARTITION logs_2024 CONCURRENTLY"),
    # --- 212, 214
    "set unlogged": Case("ALTER TABLE users SET UNLOGGED", ("MIG212",)),
    "set tablespace": Case("ALTER TABLE users SET TABLESPACE fast", ("MIG212",)),
    "tablespace of an index": Case("ALTER INDEX users_name_idx SET TABLESPACE fast", ("MIG212",)),
    "access method": Case("ALTER TABLE users SET ACCESS METHOD heap2", ("MIG212",)),
    "storage parameter": Case("ALTER TABLE users SET (fillfactor = 70)"),
    "set logged on a new table": Case("CREATE UNLOGGED TABLE t (a int); ALTER TABLE t SET LOGGED"),
    "domain constraint": Case("ALTER DOMAIN app.plain ADD CONSTRAINT c CHECK (VALUE <> '')", ("MIG214",)),
    "domain constraint not valid": Case("ALTER DOMAIN app.plain ADD CONSTRAINT c CHECK (VALUE <> '') NOT VALID"),
    "domain constraint validated": Case(
        "ALTER DOMAIN app.plain ADD CONSTRAINT c CHECK (VALUE <> '') NOT VALID;"
        "ALTER DOMAIN app.plain VALIDATE CONSTRAINT c",
        ("MIG214",),
    ),
    "domain that no table uses": Case("ALTER DOMAIN app.email ADD CONSTRAINT c CHECK (VALUE <> '')"),
    "domain not null": Case("ALTER DOMAIN app.plain SET NOT NULL", ("MIG214",)),
    "domain of a schema that is not known": Case(
        "ALTER DOMAIN d ADD CONSTRAINT c CHECK (VALUE > 0)", ("MIG214",), known=False
    ),
    "domain of this release": Case("CREATE DOMAIN d AS int; ALTER DOMAIN d ADD CHECK (VALUE > 0)", known=False),
    "attribute of the type that tables are made of": Case(
        "ALTER TYPE place ALTER ATTRIBUTE number TYPE bigint CASCADE",
        ("MIG299",),
        setup="CREATE TYPE place AS (street text, number int); CREATE TABLE places OF place;",
    ),
    # --- no schema: what the release itself said of a table is remembered
    "proof, unknown table": Case(
        "ALTER TABLE t ADD CONSTRAINT c CHECK (a IS NOT NULL AND a > 0) NOT VALID;"
        "ALTER TABLE t VALIDATE CONSTRAINT c; ALTER TABLE public.t ALTER a SET NOT NULL",
        known=False,
    ),
    "proof of another unknown table": Case(
        "ALTER TABLE t ADD CONSTRAINT c CHECK (a IS NOT NULL) NOT VALID;"
        "ALTER TABLE t VALIDATE CONSTRAINT c; ALTER TABLE app.t ALTER a SET NOT NULL",
        ("MIG206",),
        known=False,
    ),
    "proof that is dropped again": Case(
        "ALTER TABLE t ADD CONSTRAINT c CHECK (a IS NOT NULL) NOT VALID; ALTER TABLE t VALIDATE CONSTRAINT c;"
        "ALTER TABLE t DROP CONSTRAINT c; ALTER TABLE t ALTER a SET NOT NULL",
        ("MIG206",),
        known=False,
    ),
    "type of a column that the release added": Case(
        "ALTER TABLE t ADD a varchar(9); ALTER TABLE t ALTER a TYPE varchar(20); ALTER TABLE t ALTER a TYPE varchar(3)",
        ("MIG201",),
        known=False,
    ),
    "type of a column of which only a CHECK is known": Case(
        "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID; ALTER TABLE t ALTER a TYPE int",
        ("MIG201",),
        known=False,
    ),
    # --- spelled in other ways
    "capitals, comments, ONLY and IF EXISTS": Case(
        'ALTER /* x */ table IF EXISTS only PUBLIC."users" -- y\n add  constraint "C" check(age>0)', ("MIG207",)
    ),
    "names that need quotes": Case(
        'ALTER TABLE app."Order Lines" ADD CONSTRAINT "a b" CHECK ("select" > 0), ALTER "select" SET NOT NULL',
        ("MIG206", "MIG207"),
    ),
    "search_path": Case('SET search_path = app; CREATE INDEX ON "Order Lines" ("Order")', ("MIG101",)),
    "a comma in a default": Case("ALTER TABLE users ADD COLUMN x text DEFAULT 'a, ADD UNIQUE (b)', ADD y int"),
    "EXECUTE in a loop": Case(
        "DO $$ BEGIN FOR n IN 1..3 LOOP EXECUTE 'ALTER TABLE users ADD CHECK (age > 0)'; END LOOP; END $$",
        ("MIG207",),
    ),
    "three clauses of which one is harmful": Case(
        "ALTER TABLE users ADD x int, ALTER COLUMN name SET NOT NULL, ALTER COLUMN name SET DEFAULT ''", ("MIG206",)
    ),
    "NOT NULL and its proof in one transaction": Case(
        "BEGIN; ALTER TABLE users ADD CONSTRAINT c CHECK (name IS NOT NULL) NOT VALID;"
        "ALTER TABLE users VALIDATE CONSTRAINT c; ALTER TABLE users ALTER COLUMN name SET NOT NULL; COMMIT",
        ("MIG113",),
    ),
    "savepoint": Case(
        "BEGIN; SAVEPOINT s; ALTER TABLE users ADD x int; RELEASE s; ALTER TABLE orders ADD CONSTRAINT c CHECK"
        " (total > 0) NOT VALID; ALTER TABLE orders VALIDATE CONSTRAINT c; COMMIT",
        ("MIG113",),
    ),
    "a new table is filled, then indexed and checked": Case(
        "CREATE TABLE t (a bigint); INSERT INTO t SELECT id FROM users; CREATE INDEX ON t (a);"
        "ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES users",
        ("MIG208",),
    ),
    "a new table with one row": Case("CREATE TABLE t (a bigint); INSERT INTO t VALUES (1); CREATE INDEX ON t (a)"),
    "a temporary copy": Case("CREATE TEMP TABLE t AS SELECT id FROM users"),
    "lock table outside a transaction, which fails": Case("LOCK TABLE users"),
    "only the frame of a key": Case("ALTER TABLE ONLY events ADD CONSTRAINT k UNIQUE (id, day)"),
    "a type change that PostgreSQL refuses": Case(
        "ALTER TABLE t ALTER COLUMN a TYPE bigint", setup="CREATE TABLE t (a int); CREATE VIEW v AS SELECT a FROM t;"
    ),
    "partition that is scanned for the parent's foreign key": Case(
        "ALTER TABLE c ATTACH PARTITION c1 FOR VALUES IN (1)",
        ("MIG209",),
        setup="CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (k int NOT NULL, p int REFERENCES p)"
        " PARTITION BY LIST (k); CREATE TABLE c1 (k int NOT NULL, p int, CHECK (k = 1));",
    ),
    # --- nothing to say
    "rename an index": Case("ALTER INDEX users_name_idx RENAME TO i"),
    "trigger": Case("CREATE TRIGGER t BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION f()"),
    "policy": Case("CREATE POLICY p ON users; ALTER TABLE users ENABLE ROW LEVEL SECURITY"),
    "comment": Case("COMMENT ON COLUMN users.name IS 'x'"),
    "view": Case("CREATE OR REPLACE VIEW v AS SELECT id FROM users"),
    "update in a batch": Case("UPDATE users SET name = 'x' WHERE id BETWEEN 1 AND 500"),
    "index that is rolled back": Case("BEGIN; ALTER TABLE users ADD x int; ROLLBACK; ALTER TABLE users ADD x int"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    assert codes(ERRORS[name], Severity.ERROR) == sorted(ERRORS[name].codes)


WARNINGS = {
    "drop index": Case("DROP INDEX users_name_idx", ("MIG102",)),
    "drop index if exists, unknown": Case("DROP INDEX IF EXISTS i", ("MIG102",), known=False),
    "drop index concurrently": Case("DROP INDEX CONCURRENTLY users_name_idx"),
    "drop the index of a new table": Case("CREATE TABLE t (a int); CREATE INDEX i ON t (a); DROP INDEX i"),
    "drop the index of a partitioned table": Case("DROP INDEX e", setup=SCHEMA + "CREATE INDEX e ON events (kind);"),
    "detach": Case("ALTER TABLE logs DETACH PARTITION logs_2024", ("MIG106",)),
    "create table references": Case(
        "CREATE TABLE t (id bigint, a bigint REFERENCES users); CREATE INDEX ON t (a)", ("MIG110",)
    ),
    "create table references, with lock_timeout": Case(
        "SET lock_timeout = '2s'; CREATE TABLE t (a bigint PRIMARY KEY REFERENCES users)"
    ),
    "create table references, with lock_timeout off": Case(
        "SET lock_timeout = 0; CREATE TABLE t (a bigint PRIMARY KEY REFERENCES users)", ("MIG110",)
    ),
    "create table references a new one": Case(
        "CREATE TABLE p (id bigint PRIMARY KEY); CREATE TABLE t (a bigint PRIMARY KEY REFERENCES p)"
    ),
    "foreign key without an index": Case(
        'SET lock_timeout = \'2s\';ALTER TABLE app."Order Lines" ADD FOREIGN KEY ("Order") REFERENCES orders NOT VALID',
        ("MIG114",),
    ),
    "foreign key with an index": Case(
        "SET lock_timeout = '2s'; ALTER TABLE orders ADD FOREIGN KEY (user_id) REFERENCES users NOT VALID"
    ),
    "foreign key whose index follows": Case(
        "SET lock_timeout = '2s';"
        'ALTER TABLE app."Order Lines" ADD FOREIGN KEY ("Order") REFERENCES orders NOT VALID;'
        'CREATE INDEX CONCURRENTLY ON app."Order Lines" ("Order")'
    ),
    "foreign key of an unknown table": Case(
        "SET lock_timeout = '2s'; ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES users NOT VALID", known=False
    ),
    "two tables in a transaction": Case(
        "BEGIN; ALTER TABLE users ADD COLUMN x int; ALTER TABLE orders ADD COLUMN x int; COMMIT", ("MIG112",)
    ),
    "three tables in a transaction": Case(
        "BEGIN; ALTER TABLE users ADD x int; ALTER TABLE orders ADD x int; ALTER TABLE keyless ADD x int; COMMIT",
        ("MIG112",),
    ),
    "one table twice in a transaction": Case(
        "BEGIN; ALTER TABLE users ADD COLUMN x int; ALTER TABLE users ADD COLUMN y int; COMMIT"
    ),
    "a table and its partitions": Case("BEGIN; ALTER TABLE logs ADD COLUMN x int; COMMIT"),
    "two tables in two transactions": Case("ALTER TABLE users ADD COLUMN x int; ALTER TABLE orders ADD COLUMN x int"),
    "an old and a new table": Case("BEGIN; CREATE TABLE t (a int); ALTER TABLE users ADD COLUMN x int; COMMIT"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_warnings(name: str) -> None:
    assert codes(WARNINGS[name], Severity.WARNING) == sorted(WARNINGS[name].codes)


@pytest.mark.parametrize("major", [14, 17, 18])
@pytest.mark.parametrize("name", [name for name in ERRORS if ERRORS[name].codes])
def test_a_fix_is_free_of_the_errors_that_it_mends(name: str, major: int) -> None:
    case = ERRORS[name]
    if case.major > major:
        return
    for found in run(replace(case, major=major)):
        in_place = found.hit.fix and not found.hit.fix.startswith("-- in a migration of its own")
        if in_place and found.finding.severity is Severity.ERROR:
            before = made_before(case, found)
            left, kept = (replace(case, major=major, sql=sql) for sql in (before + found.hit.fix, before))
            assert codes(left, Severity.ERROR) == codes(kept, Severity.ERROR), found.hit.fix


def made_before(case: Case, found: Located) -> str:
    """What the release did before the statement that the fix replaces."""
    text = case.sql[: case.sql.index(found.statement.text)] if found.statement.text in case.sql else ""
    return "" if "BEGIN" in text else text


@pytest.mark.parametrize(
    "sql",
    [
        AROUND + "SET timezone = 'Asia/Tokyo';" + LEGS_2027,
        "SET timezone = 'Asia/Tokyo';" + AROUND + "RESET timezone;" + LEGS_2027,
        "BEGIN; SET LOCAL timezone = 'UTC';" + AROUND + "COMMIT;" + LEGS_2027,
        "SET TIME ZONE INTERVAL '+02:00' HOUR TO MINUTE;" + AROUND + "SET TIME ZONE LOCAL;" + LEGS_2027,
    ],
)
def test_literals_without_an_offset_prove_nothing_where_the_zone_changes(sql: str) -> None:
    assert "MIG210" in codes(Case(sql), Severity.ERROR)
