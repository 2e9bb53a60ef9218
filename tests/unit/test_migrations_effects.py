"""What the linter foretells, against vectors that real servers gave: effects, the matrix of types, the prover."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from dbsec.migrations.effects import coercion, foretell, together
from dbsec.migrations.effects.model import Effect, LockMode, Task, Work
from dbsec.migrations.effects.volatility import Volatility, volatility
from dbsec.migrations.interpret import operations_of
from dbsec.migrations.names import Name
from dbsec.migrations.operations import AlterEnum, Type
from dbsec.migrations.oracle.comparing import disagreements
from dbsec.migrations.reading.parse import parse_text
from dbsec.migrations.schema.apply import apply
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.session import Session

VECTORS = Path(__file__).parents[1] / "vectors"


@cache
def vectors(name: str) -> dict:
    return json.loads((VECTORS / f"migrations_{name}.json").read_text(encoding="utf-8"))


def deployed(text: str) -> Schema:
    schema = Schema(known=True)
    for statement in parse_text(text):
        for operation in operations_of(statement):
            apply(schema, operation, released=False)
    return schema


def told(text: str, schema: Schema, major: int = 17, **settings: str) -> Effect:
    """Foretell statements one after another; those of one statement are joined, the last one's effect is returned."""
    session = Session(major, dict(settings))
    joined = Effect()
    for statement in parse_text(text):
        effects = []
        for operation in operations_of(statement):
            effects.append(foretell(operation, schema, session, in_transaction=statement.in_transaction))
            if isinstance(operation, AlterEnum):
                session.added_values.setdefault(operation.type, set()).add(operation.value)
            apply(schema, operation, released=True)
        joined = together(effects)
    return joined


def measured(text: str, tables: set[Name]) -> Effect:
    """Read ``t:8 p:6 | scan t, index build p``: locks from SHARE UPDATE EXCLUSIVE on, and work."""
    by_name = {name.name: name for name in tables}
    locks, _, work = text.partition("|")
    pairs = (one.rpartition(":") for one in locks.split())
    tasks = (one.strip().rpartition(" ") for one in work.split(",") if one.strip())
    return Effect(
        tuple((by_name[table], LockMode(int(mode))) for table, _, mode in pairs),
        tuple(Task(Work(what), by_name[table]) for what, _, table in tasks),
    )


def effect_cases() -> Iterator[tuple[int, str, str, str, str]]:
    for base, extra, sql, settings, outcomes in vectors("effects")["cases"]:
        setup = f"{vectors('effects')['schemas'].get(base, '')} {extra}"
        for majors, outcome in outcomes.items():
            for major in (15, 17, 18) if majors == "15..18" else map(int, majors.split()):
                yield major, setup, sql, settings, outcome


@pytest.mark.parametrize("major", [15, 17, 18])
def test_locks_and_work_are_those_that_a_server_took(major):
    wrong, seen = [], 0
    for of, setup, sql, settings, outcome in effect_cases():
        if of != major:
            continue
        schema = deployed(setup)
        zone = {"timezone": settings.rpartition("=")[2].strip(" '")} if settings else {}
        tables = {*schema.tables, *schema.views}
        effect = told(sql, schema, major, **zone)
        seen += 1
        if outcome.startswith("error"):
            wrong += [] if effect.fails else [f"{sql}: {outcome}, and nothing is said of it"]
        else:
            wrong += [f"{sql}: {line}" for line in disagreements(effect, measured(outcome, tables), tables=tables)]
    assert not wrong, "\n".join(wrong)
    assert seen > 600


# --- types


def type_of(text: str) -> Type:
    return operations_of(parse_text(f"CREATE TABLE x (c {text})")[0])[0].columns[0].type


TYPES = """
CREATE TYPE e1 AS ENUM ('a', 'b'); CREATE TYPE e2 AS ENUM ('a', 'b');
CREATE DOMAIN dm_int AS int; CREATE DOMAIN dm_int_ck AS int CHECK (VALUE > 0); CREATE DOMAIN dm_int_nn AS int NOT NULL;
CREATE DOMAIN dm_int2 AS dm_int; CREATE DOMAIN dm_vc AS varchar; CREATE DOMAIN dm_vc10 AS varchar(10);
CREATE DOMAIN dm_text AS text; CREATE DOMAIN dm_text_ck AS text CHECK (VALUE <> '');
CREATE DOMAIN dm_ck_over AS dm_text_ck; CREATE DOMAIN dm_arr AS int[];
"""


def judged(old: Type, new: Type, schema: Schema, major: int, zone: str) -> str:
    if coercion.cast(old, new, schema, major, zone).rewrites:
        return "R"
    return "0" if coercion.index_class(old, schema, major) == coercion.index_class(new, schema, major) else "B"


@pytest.mark.parametrize("major", [15, 17, 18])
def test_every_pair_of_types_rewrites_as_a_server_does(major):
    known, schema = vectors("types"), deployed(TYPES)
    types = [type_of(text) for text in known["types"]]
    for old, row in zip(types, known["18" if major == 18 else "15 17"], strict=True):
        for new, outcome in zip(types, row, strict=True):
            if outcome in "=x":
                continue
            said = judged(old, new, schema, major, "UTC")
            if (said, outcome) == ("B", "0") and old.name == "xml":
                continue  # no index can stand on it
            assert said == {"o": "0"}.get(outcome, outcome.upper()), f"{old} -> {new}"


@pytest.mark.parametrize("major", [15, 17, 18])
def test_no_type_change_is_refused_that_a_server_does_without_using(major):
    known, schema = vectors("types"), deployed(TYPES)
    types = [type_of(text) for text in known["types"]]
    refused = 0
    for old, row in zip(types, known["18" if major == 18 else "15 17"], strict=True):
        for new, outcome in zip(types, row, strict=True):
            castable = coercion.castable(old, new, schema, major)
            assert castable or outcome not in "=RB0", f"{old} -> {new}"
            refused += not castable
    assert refused > 2000


def test_away_from_utc_a_time_is_converted():
    schema = deployed(TYPES)
    for pair, outcome in vectors("types")["elsewhere than in UTC"].items():
        old, new = (type_of(side) for side in pair.split(" -> "))
        assert outcome == "x" or judged(old, new, schema, 18, "Europe/Rome") == outcome.upper(), pair


@pytest.mark.parametrize("zone", ["UTC", "utc", "GMT", "Etc/UTC", "Etc/GMT+0", "UCT", "0", "00:00", "UTC0"])
def test_a_zone_that_never_had_an_offset_keeps_the_bytes(zone):
    schema = deployed("CREATE TABLE t (at timestamp)")
    assert told("ALTER TABLE t ALTER at TYPE timestamptz", schema, timezone=zone).work == ()


@pytest.mark.parametrize("zone", ["Europe/London", "Africa/Abidjan", "Asia/Tokyo"])
def test_a_zone_that_once_had_an_offset_rewrites(zone):
    schema = deployed("CREATE TABLE t (at timestamp)")
    effect = told("ALTER TABLE t ALTER at TYPE timestamptz", schema, timezone=zone)
    assert [task.work for task in effect.work] == [Work.REWRITE]
    assert not effect.unsure


def test_a_zone_that_is_not_known_is_taken_for_another_one_than_utc():
    effect = told("ALTER TABLE t ALTER at TYPE timestamptz", deployed("CREATE TABLE t (at timestamp)"))
    assert effect.unsure
    assert [task.work for task in effect.work] == [Work.REWRITE]


# --- the prover


def scans(setup: str, sql: str) -> list[str]:
    effect = told(sql, deployed(f"{vectors('proofs')['before']}; {setup}"), 18)
    return sorted(task.table.name for task in effect.work if task.work is Work.SCAN)


def test_nothing_is_proven_that_postgresql_does_not_prove():
    wrong, exact, cases = [], 0, vectors("proofs")["cases"]
    for setup, sql, seen in cases:
        said = scans(setup, sql)
        exact += said == seen
        if not set(seen) <= set(said):
            wrong.append(f"{setup} {sql}: PostgreSQL scans {seen}, foretold {said}")
    assert not wrong, "\n".join(wrong)
    assert exact > 0.85 * len(cases), "what PostgreSQL proves is mostly seen too"


@pytest.mark.parametrize(
    ("check", "proven"),
    [
        ("a IS NOT NULL", True),
        ("a IS NOT NULL AND b > 0", True),
        ("NOT (a IS NULL)", True),
        ("(a IS NULL) = false", True),
        ("a IS DISTINCT FROM NULL", True),
        ("(a IS NOT NULL AND b > 0) OR (a IS NOT NULL AND b < 0)", True),
        ("a > 0", False),
        ("a IS NOT NULL OR b IS NOT NULL", False),
        ("coalesce(a, 0) IS NOT NULL", False),
        ("num_nulls(a) = 0", False),
    ],
)
def test_which_checks_prove_not_null(check, proven):
    effect = told("ALTER TABLE t ALTER a SET NOT NULL", deployed(f"CREATE TABLE t (a int, b int, CHECK ({check}))"))
    assert (effect.work == ()) is proven
    assert bool(effect.proofs) is proven


def test_a_check_that_was_not_validated_proves_nothing():
    schema = deployed("CREATE TABLE t (a int); ALTER TABLE t ADD CONSTRAINT c CHECK (a IS NOT NULL) NOT VALID")
    assert told("ALTER TABLE t ALTER a SET NOT NULL", schema).work
    assert not told("ALTER TABLE t VALIDATE CONSTRAINT c; ALTER TABLE t ALTER a SET NOT NULL", schema).work


def test_a_check_that_the_same_statement_drops_proves_nothing():
    schema = deployed("CREATE TABLE t (a int, CONSTRAINT c CHECK (a IS NOT NULL))")
    assert told("ALTER TABLE t ALTER a SET NOT NULL, DROP CONSTRAINT c", schema).work


# --- defaults


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        ("7", Volatility.SETTLED),
        ("now()", Volatility.SETTLED),
        ("CURRENT_TIMESTAMP", Volatility.SETTLED),
        ("pg_catalog.now()", Volatility.SETTLED),
        ("'now'::text::timestamptz", Volatility.SETTLED),
        ("'{}'::jsonb", Volatility.SETTLED),
        ("lower(current_user)", Volatility.SETTLED),
        ("steady()", Volatility.SETTLED),
        ("app.steady()", Volatility.SETTLED),
        ("uuid_generate_v5(uuid_ns_dns(), 'x')", Volatility.UNKNOWN),
        ("clock_timestamp()", Volatility.VOLATILE),
        ("gen_random_uuid()", Volatility.VOLATILE),
        ("md5(random()::text)", Volatility.VOLATILE),
        ("CASE WHEN random() > 0.5 THEN 1 ELSE 2 END", Volatility.VOLATILE),
        ("uuid_generate_v4()", Volatility.VOLATILE),
        ("nextval('s')", Volatility.VOLATILE),
        ("fresh()", Volatility.VOLATILE),
        ("elsewhere.made()", Volatility.UNKNOWN),
        ("fresh_from_nowhere()", Volatility.UNKNOWN),
    ],
)
def test_what_a_default_does_for_each_row(default, expected):
    schema = deployed(
        "CREATE SCHEMA app; CREATE FUNCTION fresh() RETURNS int LANGUAGE plpgsql AS '';"
        "CREATE FUNCTION steady() RETURNS int LANGUAGE sql STABLE AS '';"
        "CREATE FUNCTION app.steady() RETURNS int LANGUAGE sql IMMUTABLE AS ''"
    )
    column = operations_of(parse_text(f"ALTER TABLE t ADD c text DEFAULT {default}")[0])[0].column
    assert volatility(column.default, schema, 17)[0] is expected


@pytest.mark.parametrize("major", [14, 15, 16, 17, 18])
def test_uuidv7_is_unknown_before_it_is_there(major):
    effect = told("ALTER TABLE t ADD c uuid DEFAULT uuidv7()", deployed("CREATE TABLE t (id int)"), major)
    assert [task.work for task in effect.work] == [Work.REWRITE]
    assert effect.unsure is (major < 18)


# --- what is not known


def test_an_unknown_table_is_taken_for_a_large_one():
    schema = Schema()
    effect = told("ALTER TABLE somewhere.t ALTER c TYPE text", schema)
    assert effect.locks == ((Name("somewhere", "t"), LockMode.ACCESS_EXCLUSIVE),)
    assert [task.work for task in effect.work] == [Work.REWRITE]
    assert effect.unsure
    assert told("ALTER TABLE t ALTER c SET NOT NULL", schema).unsure
    assert not told("ALTER TABLE t ADD c int", schema).unsure


def test_a_table_of_this_release_is_locked_and_has_no_rows():
    schema = deployed("CREATE TABLE p (id int PRIMARY KEY)")
    effect = told("CREATE TABLE n (id int REFERENCES p)", schema)
    assert effect.locks == ((Name("public", "p"), LockMode.SHARE_ROW_EXCLUSIVE),)
    for sql in ("ALTER TABLE n ADD CHECK (id > 0)", "CREATE INDEX ON n (id)", "ALTER TABLE n ALTER id SET NOT NULL"):
        effect = told(sql, schema)
        assert effect.lock_on(Name("public", "n")) is not None
        assert effect.work == ()
        assert effect.fails == ""
    told("INSERT INTO n SELECT id FROM p", schema)
    assert told("CREATE INDEX ON n (id)", schema).work, "now it is filled"


def test_what_if_exists_does_not_find_is_not_locked():
    schema = deployed("CREATE TABLE t (id int)")
    for sql in (
        "ALTER TABLE IF EXISTS gone ADD c int",
        "DROP TABLE IF EXISTS gone",
        "DROP TRIGGER IF EXISTS gone ON t",
        "ALTER TABLE IF EXISTS gone RENAME TO there",
    ):
        assert told(sql, schema).locks == (), sql


# --- statements that fail


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE INDEX CONCURRENTLY i ON t (a)",
        "DROP INDEX CONCURRENTLY t_b",
        "REINDEX TABLE CONCURRENTLY t",
        "ALTER TABLE pt DETACH PARTITION p1 CONCURRENTLY",
        "VACUUM t",
        "CREATE DATABASE d",
        "ALTER SYSTEM SET work_mem = '1GB'",
    ],
)
def test_what_must_not_stand_in_a_transaction(sql):
    setup = "CREATE TABLE t (a int, b int); CREATE INDEX t_b ON t (b); CREATE TABLE pt (a int) PARTITION BY LIST (a); "
    setup += "CREATE TABLE p1 PARTITION OF pt FOR VALUES IN (1)"
    assert told(sql, deployed(setup)).fails == ""
    effect = told(f"BEGIN; {sql}", deployed(setup))
    assert effect.fails.endswith("cannot run inside a transaction block")
    assert effect.locks == effect.work == ()


@pytest.mark.parametrize(("sql", "fails"), [("LOCK TABLE t", True), ("BEGIN; LOCK TABLE t", False)])
def test_lock_table_needs_a_transaction(sql, fails):
    assert bool(told(sql, deployed("CREATE TABLE t (a int)")).fails) is fails


def test_a_new_label_of_an_enum_is_no_value_yet():
    schema = deployed("CREATE TYPE mood AS ENUM ('a'); CREATE TABLE t (m mood, x text)")
    assert "unsafe use" in told("BEGIN; ALTER TYPE mood ADD VALUE 'b'; UPDATE t SET m = 'b'", schema).fails
    assert told("BEGIN; ALTER TYPE mood ADD VALUE 'c'; CREATE TABLE u (x text DEFAULT 'c')", schema).fails == ""


# --- joining


def test_a_rewrite_takes_scans_and_builds_of_its_table_in():
    t, p = Name("public", "t"), Name("public", "p")
    tasks = [Task(Work.SCAN, t), Task(Work.REWRITE, t), Task(Work.BUILD, t), Task(Work.FK_SCAN, t), Task(Work.SCAN, p)]
    joined = together([Effect(((t, LockMode.SHARE),), tuple(tasks)), Effect(((t, LockMode.ACCESS_EXCLUSIVE),))])
    assert joined.locks == ((t, LockMode.ACCESS_EXCLUSIVE),)
    assert joined.work == (Task(Work.REWRITE, t), Task(Work.FK_SCAN, t), Task(Work.SCAN, p))
