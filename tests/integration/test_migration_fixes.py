"""The SQL that the lock rules offer, run on real servers: nothing in it works under a lock, and it ends where the
statement that it replaces would have ended."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from dbsec.findings import Severity
from dbsec.migrations.effects.model import Work
from dbsec.migrations.linter import Options, lint
from dbsec.migrations.schema.catalog import from_catalog
from dbsec.migrations.script import Script
from dbsec.testing.bench import Done
from dbsec.testing.clusters import Cluster
from dbsec.testing.rules import Bench, Scratch

pytestmark = pytest.mark.pg(15, 18)

SETUP = """
CREATE SCHEMA "My App";
CREATE TABLE users (id bigint PRIMARY KEY, email varchar(100), "Name" text, n integer);
CREATE TABLE orders (id bigint, "user" bigint, total integer, note text);
CREATE UNIQUE INDEX orders_id_idx ON orders (id);
CREATE INDEX ON orders ("user");
CREATE TABLE "My App"."order" ("select" bigint, "Größe ""x"" §" integer);
CREATE TABLE events (id bigint, day date NOT NULL, kind text) PARTITION BY RANGE (day);
CREATE TABLE events_a PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE events_b PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (kind);
CREATE TABLE events_b_x PARTITION OF events_b FOR VALUES IN ('x');
CREATE TABLE logs (id bigint, day date NOT NULL, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE logs_rest PARTITION OF logs DEFAULT;
CREATE TABLE logs_2030 (id bigint NOT NULL, day date NOT NULL);
CREATE DOMAIN email AS varchar(50) CHECK (VALUE LIKE '%@%');
INSERT INTO users SELECT n, n || '@x', 'n' || n, n FROM generate_series(1, 200) AS n;
INSERT INTO orders SELECT n, n, n, 'a' FROM generate_series(1, 200) AS n;
INSERT INTO "My App"."order" SELECT n, n FROM generate_series(1, 200) AS n;
INSERT INTO events SELECT n, date '2024-12-30' + n % 5, 'x' FROM generate_series(1, 200) AS n;
INSERT INTO logs SELECT n, '2024-01-01' FROM generate_series(1, 200) AS n;
INSERT INTO logs_2030 SELECT n, '2030-01-01' FROM generate_series(1, 200) AS n;
"""
STATE = """
SELECT 'constraint', conrelid::regclass::text, conname::text, pg_get_constraintdef(oid), convalidated::text
  FROM pg_constraint WHERE connamespace <> 'pg_catalog'::regnamespace
   AND conrelid::regclass::text !~ '^(pg_|information_schema)'
UNION ALL
SELECT 'index', indrelid::regclass::text, indexrelid::regclass::text, pg_get_indexdef(indexrelid),
       (indisvalid AND indisready)::text
  FROM pg_index JOIN pg_class c ON c.oid = indrelid WHERE relnamespace::regnamespace::text !~ '^pg_'
UNION ALL
SELECT 'column', attrelid::regclass::text, attname::text, format_type(atttypid, atttypmod), attnotnull::text
  FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
 WHERE attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p') AND relnamespace::regnamespace::text !~ '^(pg_|info)'
 ORDER BY 1, 2, 3
"""


@dataclass(frozen=True)
class Case:
    """``same``: the fix ends in the same catalog as the statement. ``holds``: a query that gives true after the fix."""

    sql: str
    code: str
    same: bool = True
    holds: str = ""
    since: int = 15
    setup: str = SETUP


CASES = {
    "index": Case('CREATE INDEX "Idx" ON users USING btree ("Name" DESC) WHERE n > 3', "MIG101"),
    "index without a name": Case('CREATE UNIQUE INDEX ON "My App"."order" ("select")', "MIG101"),
    "reindex": Case("REINDEX (VERBOSE) TABLE users", "MIG103"),
    "unique": Case("ALTER TABLE users ADD UNIQUE (n)", "MIG108"),
    "unique with all words": Case(
        'ALTER TABLE users ADD CONSTRAINT "U k" UNIQUE NULLS NOT DISTINCT ("Name") INCLUDE (n) WITH (fillfactor = 70)'
        " DEFERRABLE INITIALLY DEFERRED",
        "MIG108",
    ),
    "primary key of nullable columns": Case('ALTER TABLE orders ADD PRIMARY KEY ("user", total)', "MIG108"),
    "primary key of reserved words": Case('ALTER TABLE "My App"."order" ADD PRIMARY KEY ("select")', "MIG108"),
    "inline unique": Case("ALTER TABLE users ADD COLUMN x integer CONSTRAINT xu UNIQUE", "MIG108"),
    "unique, partitioned": Case("ALTER TABLE events ADD CONSTRAINT eu UNIQUE (id, day, kind)", "MIG108", same=False),
    "primary key, partitioned": Case("ALTER TABLE events ADD PRIMARY KEY (id, day, kind)", "MIG108", same=False),
    "index, partitioned": Case("CREATE INDEX events_kind_idx ON events (kind)", "MIG115"),
    "index with a long name": Case(
        f"CREATE INDEX {'long_' * 12}idx ON events (lower(kind)) WHERE id > 0", "MIG115", same=False
    ),
    "bigint": Case(
        "ALTER TABLE users ALTER COLUMN n TYPE bigint",
        "MIG201",
        same=False,
        holds="SELECT bool_and(n_new = n) FROM users",
    ),
    "type with USING": Case(
        'ALTER TABLE users ALTER COLUMN "Name" SET DATA TYPE integer USING substr("Name", 2)::integer + users.n',
        "MIG201",
        same=False,
        holds="""SELECT bool_and("Name_new" = n * 2) FROM users""",
    ),
    "type with collation": Case(
        'ALTER TABLE "My App"."order" ALTER COLUMN "Größe ""x"" §" TYPE varchar(9) COLLATE "C"',
        "MIG201",
        same=False,
        holds="""SELECT bool_and("Größe ""x"" §_new" = "select"::text) FROM "My App"."order" """,
    ),
    "type, partitioned": Case(
        "ALTER TABLE events ALTER COLUMN id TYPE text",
        "MIG201",
        same=False,
        holds="SELECT bool_and(id_new = id::text) FROM events",
    ),
    "volatile default": Case(
        "ALTER TABLE users ADD COLUMN token uuid DEFAULT gen_random_uuid() NOT NULL UNIQUE",
        "MIG202",
        holds="SELECT count(DISTINCT token) = 200 FROM users",
    ),
    "volatile default, partitioned": Case(
        "ALTER TABLE events ADD COLUMN r float8 NOT NULL DEFAULT random() CHECK (r >= 0)",
        "MIG202",
        holds="SELECT count(DISTINCT r) > 150 FROM events",
    ),
    "serial": Case(
        "ALTER TABLE orders ADD COLUMN no bigserial PRIMARY KEY",
        "MIG203",
        holds="SELECT count(DISTINCT no) = 200 AND nextval('orders_no_seq') > max(no) FROM orders",
    ),
    "identity": Case(
        'ALTER TABLE "My App"."order" ADD COLUMN "No" int GENERATED ALWAYS AS IDENTITY',
        "MIG203",
        holds="""SELECT count(DISTINCT "No") = 200 FROM "My App"."order" """,
    ),
    "stored": Case(
        'ALTER TABLE users ADD COLUMN email_key text COLLATE "C" GENERATED ALWAYS AS (lower(email) || n) STORED'
        " CHECK (email_key <> '')",
        "MIG204",
        holds="SELECT bool_and(email_key = lower(email) || n) FROM users",
    ),
    "domain": Case("ALTER TABLE users ADD COLUMN mail email", "MIG205", same=False),
    "domain with a default": Case(
        "ALTER TABLE users ADD COLUMN mail email DEFAULT 'a@b' NOT NULL",
        "MIG205",
        same=False,
        holds="SELECT bool_and(mail = 'a@b') FROM users",
    ),
    "set not null": Case('ALTER TABLE users ALTER COLUMN "Name" SET NOT NULL', "MIG206"),
    "set not null, partitioned": Case("ALTER TABLE events ALTER COLUMN kind SET NOT NULL", "MIG206"),
    "set not null over a CHECK that waits": Case(
        "ALTER TABLE users ALTER COLUMN n SET NOT NULL",
        "MIG206",
        same=False,
        setup=SETUP + "ALTER TABLE users ADD CONSTRAINT w CHECK (n IS NOT NULL) NOT VALID;",
    ),
    "add not null": Case("ALTER TABLE users ADD CONSTRAINT nn NOT NULL n", "MIG206", since=18),
    "check": Case("ALTER TABLE users ADD CHECK (n > 0 AND (n < 1000))", "MIG207"),
    "check of two columns": Case("ALTER TABLE users ADD CHECK (n <= id)", "MIG207"),
    "check, named": Case("""ALTER TABLE users ADD CONSTRAINT "a ""b" CHECK ("Name" <> ' NOT VALID')""", "MIG207"),
    "check, no inherit": Case("ALTER TABLE users ADD CHECK (n > 0) NO INHERIT", "MIG207"),
    "check, partitioned": Case("ALTER TABLE events ADD CONSTRAINT ec CHECK (id > 0)", "MIG207"),
    "inline check": Case("ALTER TABLE users ADD COLUMN x int DEFAULT 4 NOT NULL CHECK (x > 3)", "MIG207"),
    "check beside one of its name": Case(
        "ALTER TABLE users ADD CHECK (n > 0)", "MIG207", setup=SETUP + "ALTER TABLE users ADD CHECK (n < 999);"
    ),
    "foreign key": Case(
        'ALTER TABLE orders ADD FOREIGN KEY ("user") REFERENCES users ON DELETE CASCADE DEFERRABLE', "MIG208"
    ),
    "inline references": Case(
        "ALTER TABLE orders ADD COLUMN x bigint DEFAULT 1 CONSTRAINT xf REFERENCES users (id) ON DELETE SET NULL",
        "MIG208",
    ),
    "foreign key, partitioned": Case(
        "ALTER TABLE events ADD CONSTRAINT ef FOREIGN KEY (id) REFERENCES users", "MIG208"
    ),
    "attach beside a default": Case(
        "ALTER TABLE logs ATTACH PARTITION logs_2030 FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')", "MIG209"
    ),
    **{
        f"attach {bound}": Case(
            f"ALTER TABLE m ATTACH PARTITION child {bound}",
            "MIG209",
            setup=f"CREATE TABLE m (a int, b text) PARTITION BY {key}; CREATE TABLE rest PARTITION OF m DEFAULT;"
            "CREATE TABLE child (LIKE m); CREATE INDEX m_b ON m (b);"
            f"INSERT INTO child SELECT {row} FROM generate_series(1, 200); INSERT INTO rest VALUES (-99, 'ZZ');",
        )
        for key, bound, row in (
            ("LIST (b)", "FOR VALUES IN ('b', 'c')", "1, 'b'"),
            ("LIST (b)", "FOR VALUES IN ('b', NULL)", "1, NULL"),
            ("LIST (b)", "FOR VALUES IN (NULL)", "1, NULL"),
            ("RANGE (a)", "FOR VALUES FROM (MINVALUE) TO (-100)", "-500, 'b'"),
            ("RANGE (a)", "FOR VALUES FROM (10) TO (MAXVALUE)", "500, 'b'"),
            ("RANGE (b, a)", "FOR VALUES FROM ('a', 10) TO ('a', 20)", "15, 'a'"),
            ("RANGE (a, b)", "FOR VALUES FROM (1, 'b') TO (5, 'c')", "3, 'b'"),
            ("RANGE (a, b)", "FOR VALUES FROM (1, 'b') TO (5, MAXVALUE)", "5, 'b'"),
            ("RANGE (a, b)", "FOR VALUES FROM (1, MINVALUE) TO (5, MINVALUE)", "4, 'b'"),
        )
    },
    "partition of": Case(
        "CREATE TABLE logs_2031 PARTITION OF logs FOR VALUES FROM ('2031-01-01') TO ('2032-01-01')", "MIG210"
    ),
    "longer varchar under a CHECK": Case(
        "ALTER TABLE users ALTER COLUMN email TYPE varchar(200)",
        "MIG213",
        setup=SETUP + "ALTER TABLE users ADD CONSTRAINT \"50%\" CHECK (email <> 'it''s 5%') NO INHERIT;",
    ),
    "longer varchar in an expression index": Case(
        "ALTER TABLE users ALTER COLUMN email TYPE varchar(200)",
        "MIG213",
        same=False,
        setup=SETUP + "CREATE INDEX ON users (lower(email));",
        holds="SELECT bool_and(email_new = email) FROM users",
    ),
    "enforced": Case(
        "ALTER TABLE orders ALTER CONSTRAINT orders_f ENFORCED",
        "MIG215",
        since=18,
        setup=SETUP + 'ALTER TABLE orders ADD CONSTRAINT orders_f FOREIGN KEY ("user") REFERENCES users'
        " ON DELETE SET NULL NOT ENFORCED;",
    ),
    "primary key using index": Case("ALTER TABLE orders ADD PRIMARY KEY USING INDEX orders_id_idx", "MIG211"),
    "domain constraint": Case(
        "ALTER DOMAIN email ADD CONSTRAINT short CHECK (length(VALUE) < 40)",
        "MIG214",
        same=False,
        setup=SETUP + "ALTER TABLE users ADD COLUMN mail email;",
    ),
    "domain not null": Case(
        "ALTER DOMAIN email SET NOT NULL",
        "MIG214",
        same=False,
        setup=SETUP + "ALTER TABLE orders ADD COLUMN mail email DEFAULT 'a@b';",
    ),
}


@pytest.fixture(scope="module")
def bench(cluster: Cluster) -> Iterator[Bench]:
    scratch = Scratch(cluster, f"fixes_{secrets.token_hex(4)}")
    yield Bench(scratch)
    scratch.drop()


def fix_of(case: Case, bench: Bench, major: int) -> str:
    with bench.set_up(case.setup) as (_, session):
        schema = from_catalog(session)
    result = lint([Script("release.sql", case.sql)], schema=schema, options=Options(major=major))
    errors = [one for one in result.located if one.finding.severity is Severity.ERROR and one.rule.code == case.code]
    assert len(errors) == 1, [(one.rule.code, one.finding.message) for one in result.located]
    assert errors[0].hit.fix, errors[0].finding.message
    return errors[0].hit.fix


def under_lock(done: Done, old: frozenset[object]) -> list[str]:
    """Name the work of a statement that others wait for."""
    return [
        f"{task.work} of {task.table} under {mode.sql}: {done.statement.text}"
        for task, mode in done.effect.blocking(Work.REWRITE, Work.SCAN, Work.BUILD, Work.FK_SCAN)
        if task.table in old
    ]


@pytest.mark.parametrize("name", CASES)
def test_a_fix_does_no_work_under_a_lock_and_ends_the_same(name: str, bench: Bench, pg_major: int) -> None:
    case = CASES[name]
    if pg_major < case.since:
        pytest.skip(f"PostgreSQL {pg_major} does not know it")
    fix = fix_of(case, bench, pg_major)
    fixed = bench.run(case.setup, fix, f"SELECT 'holds', '', '', '', ({case.holds or 'true'})::text UNION ALL {STATE}")
    assert fixed.errors == [], fix
    assert [line for done in fixed.done for line in under_lock(done, fixed.old)] == [], fix
    assert fixed.answer is not None
    assert fixed.answer.rows is not None, fixed.answer
    assert ("holds", "", "", "", "true") in fixed.answer.rows, fix
    if case.same:
        wanted = bench.run(case.setup, case.sql, STATE).answer
        assert wanted is not None
        assert wanted.rows == [row for row in fixed.answer.rows if row[0] != "holds"], fix
