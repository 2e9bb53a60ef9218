"""The state between two statements: parsed, interpreted, applied."""

from __future__ import annotations

import pytest

from dbsec.errors import UsageError
from dbsec.migrations.interpret import operations_of
from dbsec.migrations.names import Name
from dbsec.migrations.operations import ConstraintKind, Type
from dbsec.migrations.reading.parse import parse_text
from dbsec.migrations.schema import naming
from dbsec.migrations.schema.apply import apply, path_of
from dbsec.migrations.schema.dump import from_dump
from dbsec.migrations.schema.model import Schema, Table

DEPLOYED = """
CREATE SCHEMA app;
SET search_path = app, public;
CREATE DOMAIN email AS text;
CREATE TYPE mood AS ENUM ('a');
CREATE TABLE orgs (id bigserial PRIMARY KEY, name text UNIQUE, m mood, mail email);
CREATE TABLE users (id int PRIMARY KEY, org_id bigint REFERENCES orgs, phone text CHECK (phone <> ''), age int);
CREATE TABLE events (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE VIEW names AS SELECT u.id, o.name FROM users u JOIN orgs o ON o.id = u.org_id;
CREATE VIEW over_names AS SELECT id FROM names;
CREATE MATERIALIZED VIEW totals AS SELECT phone FROM users;
"""


def run(schema: Schema, sql: str, *, released: bool = True) -> Schema:
    for statement in parse_text(sql):
        for operation in operations_of(statement):
            apply(schema, operation, released=released)
    return schema


def deployed(major: int | None = 17) -> Schema:
    return run(Schema(known=True, major=major), DEPLOYED, released=False)


def table(schema: Schema, name: str) -> Table:
    found = schema.table(Name(None, name))
    assert found is not None
    return found


def after(sql: str, name: str = "users", major: int | None = 17) -> Table:
    return table(run(deployed(major), sql), name)


def keys(found: Table) -> dict[str | None, tuple[ConstraintKind, tuple[str, ...]]]:
    return {one.name: (one.kind, one.columns) for one in found.constraints}


# --- names


@pytest.mark.parametrize(
    ("first", "second", "label", "name"),
    [
        ("users", "phone", "key", "users_phone_key"),
        ("users", None, "pkey", "users_pkey"),
        ("t" * 40, "c" * 40, "idx", "t" * 29 + "_" + "c" * 29 + "_idx"),
        ("t" * 40, "c" * 40, "fkey", "t" * 29 + "_" + "c" * 28 + "_fkey"),
        ("t" * 60, "c", "idx", "t" * 57 + "_c_idx"),
        ("t" * 63, None, "pkey", "t" * 58 + "_pkey"),
        ("é" * 40, None, "pkey", "é" * 29 + "_pkey"),
    ],
)
def test_long_names_are_cut_as_postgresql_cuts_them(first, second, label, name):
    assert naming.joined(first, second, label) == name
    assert len(name.encode()) <= 63


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("CREATE INDEX ON users (phone)", ["users_phone_idx"]),
        ("CREATE INDEX ON users (phone) INCLUDE (age)", ["users_phone_age_idx"]),
        ("CREATE INDEX ON users (age); CREATE INDEX ON users (age)", ["users_age_idx", "users_age_idx1"]),
        ("CREATE INDEX ON users (lower(phone), (age + 1), (age + 2))", ["users_lower_expr_expr1_idx"]),
        ("CREATE INDEX ON users (CAST(age AS text))", ["users_age_idx"]),
        ("CREATE INDEX ON users ((1)::text)", []),
        ("ALTER TABLE users ADD UNIQUE (phone, age)", ["users_phone_age_key"]),
        ("ALTER TABLE users ADD CONSTRAINT mine UNIQUE (phone)", ["mine"]),
        ("ALTER TABLE users ADD COLUMN x int UNIQUE", ["users_x_key"]),
        ("ALTER TABLE users ADD EXCLUDE USING gist (age WITH =)", ["users_age_excl"]),
        ("CREATE TABLE users_age_idx (x int); CREATE INDEX ON users (age)", ["users_age_idx1"]),
    ],
)
def test_indexes_get_postgresqls_names(sql, names):
    if names:
        assert [name for name in after(sql).indexes if name != "users_pkey"] == names


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("ALTER TABLE users ADD CHECK (age > 0)", "users_age_check"),
        ("ALTER TABLE users ADD CHECK (phone > '')", "users_phone_check1"),
        ("ALTER TABLE users ADD CHECK (age > 0 AND phone > '')", "users_check"),
        ("ALTER TABLE users ADD FOREIGN KEY (age) REFERENCES orgs", "users_age_fkey"),
        ("ALTER TABLE users ADD FOREIGN KEY (age, org_id) REFERENCES orgs (id, id)", "users_age_org_id_fkey"),
        ("ALTER TABLE users ADD COLUMN x int REFERENCES orgs", "users_x_fkey"),
        ("ALTER TABLE users ADD FOREIGN KEY (org_id) REFERENCES orgs", "users_org_id_fkey1"),
    ],
)
def test_constraints_get_postgresqls_names(sql, name):
    assert after(sql).constraints[-1].name == name


# --- the release


def test_what_the_release_makes_is_new():
    schema = run(deployed(), "CREATE TABLE fresh (id serial); CREATE VIEW v AS SELECT 1; CREATE TYPE t AS ENUM ()")
    fresh = table(schema, "fresh")
    assert (fresh.new, fresh.empty, table(schema, "users").new) == (True, True, False)
    assert {("table", Name("app", "fresh")), ("sequence", Name("app", "fresh_id_seq"))} <= schema.new_objects
    assert {("view", Name("app", "v")), ("type", Name("app", "t"))} <= schema.new_objects
    assert schema.new_types == {Name("app", "t")}


def test_the_deployed_state_has_nothing_new():
    schema = deployed()
    assert not schema.new_objects
    assert not schema.new_types
    assert not any(one.new or one.filled or one.new_columns for one in schema.tables.values())


def test_a_table_that_is_there_stays_as_it_is():
    schema = run(deployed(), "CREATE TABLE IF NOT EXISTS users (other int); CREATE TABLE users (other int)")
    users = table(schema, "users")
    assert not users.new
    assert "other" not in users.columns
    assert ("table", users.name) not in schema.new_objects


@pytest.mark.parametrize(
    ("sql", "filled"),
    [
        ("INSERT INTO fresh SELECT id FROM users", True),
        ("COPY fresh FROM STDIN", True),
        ("INSERT INTO fresh VALUES (1)", False),
        ("UPDATE fresh SET id = 1", False),
        ("INSERT INTO fresh SELECT id FROM users; TRUNCATE fresh", False),
        ("ALTER TABLE fresh RENAME TO x; INSERT INTO x SELECT id FROM users; ALTER TABLE x RENAME TO fresh", True),
    ],
)  # fmt: skip
def test_a_new_table_is_empty_until_it_is_filled(sql, filled):
    assert after(f"CREATE TABLE fresh (id int); {sql}", "fresh").filled is filled


def test_tables_made_of_queries_are_filled():
    assert not after("CREATE TABLE fresh AS SELECT id, age::bigint AS a FROM users", "fresh").empty
    assert after("CREATE TABLE fresh AS SELECT id FROM users WITH NO DATA", "fresh").empty
    made = after("CREATE TABLE fresh (x) AS SELECT id, age::bigint AS a, now() FROM users", "fresh")
    assert [(column.name, column.type.name) for column in made.columns.values()] == [
        ("x", "int4"),
        ("a", "int8"),
        ("now", ""),
    ]


def test_a_new_parent_has_the_rows_of_the_old_table_that_it_takes_in():
    parent = "CREATE TABLE fresh (id int, day date) PARTITION BY RANGE (day);"
    old = "ALTER TABLE events DETACH PARTITION events_1; ALTER TABLE fresh ATTACH PARTITION events_1 DEFAULT"
    assert not after(parent + old, "fresh").empty
    new = "CREATE TABLE other (id int, day date); ALTER TABLE fresh ATTACH PARTITION other DEFAULT"
    assert after(parent + new, "fresh").empty
    assert not after(parent + new + "; INSERT INTO other SELECT id, now() FROM users", "fresh").empty


def test_new_columns_keep_being_new_under_another_name():
    users = after(
        "ALTER TABLE users ADD COLUMN x int, ADD COLUMN IF NOT EXISTS age int; ALTER TABLE users RENAME x TO y"
    )
    assert users.new_columns == {"y"}
    assert not after("ALTER TABLE users RENAME age TO years").new_columns


def test_names_of_new_objects_follow_renames_and_drops():
    schema = run(
        deployed(),
        "CREATE TABLE a (x int); ALTER TABLE a RENAME TO b; CREATE INDEX i ON users (age); ALTER INDEX i RENAME TO j;"
        "CREATE VIEW v AS SELECT 1; DROP VIEW v; CREATE TABLE gone (x serial); DROP TABLE gone",
    )
    assert schema.new_objects == {("table", Name("app", "b")), ("index", Name("app", "j"))}


def test_nothing_is_made_up_about_unknown_tables():
    schema = run(
        Schema(),
        "ALTER TABLE x ADD COLUMN y int CHECK (y > 0), DROP COLUMN z; ALTER TABLE x RENAME TO w; DROP TABLE x CASCADE;"
        "ALTER TABLE x ATTACH PARTITION y DEFAULT; UPDATE x SET a = 1; TRUNCATE x; CREATE TRIGGER t BEFORE INSERT ON x"
        " EXECUTE FUNCTION f(); ALTER TABLE x RENAME COLUMN a TO b; DROP TYPE x; ALTER DOMAIN d SET NOT NULL",
    )
    assert not schema.tables
    assert run(schema, "CREATE INDEX i ON x (a)").new_objects == {("index", Name("public", "i"))}


# --- columns and constraints


def test_serial_is_an_integer_with_a_sequence():
    schema = run(deployed(), "ALTER TABLE users ADD COLUMN n bigserial")
    column = table(schema, "users").columns["n"]
    assert (column.type, column.not_null, column.default is not None) == (Type("int8"), True, True)
    assert Name("app", "users_n_seq") in schema.sequences
    run(schema, "ALTER TABLE users DROP COLUMN n")
    assert Name("app", "users_n_seq") not in schema.sequences


def test_types_of_the_schema_get_their_schema():
    orgs = table(deployed(), "orgs")
    assert (orgs.columns["m"].type, orgs.columns["mail"].type) == (Type("mood", "app"), Type("email", "app"))


@pytest.mark.parametrize("major", [15, 17, 18, None])
def test_a_primary_key_makes_its_columns_not_null(major):
    users = after("ALTER TABLE users DROP CONSTRAINT users_pkey, ADD PRIMARY KEY (id, age)", major=major)
    assert users.columns["age"].not_null
    assert [one.kind for one in users.constraints].count(ConstraintKind.NOT_NULL) == 0


def test_not_null_not_valid_proves_nothing_until_it_is_validated():
    added = "ALTER TABLE users ADD CONSTRAINT needed NOT NULL age NOT VALID;"
    users = after(added, major=18)
    assert not users.columns["age"].not_null
    assert [(one.name, one.valid) for one in users.of_kind(ConstraintKind.NOT_NULL)] == [("needed", False)]
    for proven in ("VALIDATE CONSTRAINT needed", "ALTER age SET NOT NULL"):
        users = after(f"{added} ALTER TABLE users {proven}", major=18)
        assert users.columns["age"].not_null
        assert [(one.name, one.valid) for one in users.of_kind(ConstraintKind.NOT_NULL)] == [("needed", True)]
    for gone in ("DROP CONSTRAINT needed", "ALTER age DROP NOT NULL"):
        users = after(f"{added} ALTER TABLE users {gone}", major=18)
        assert not list(users.of_kind(ConstraintKind.NOT_NULL))


def test_not_null_can_be_dropped_by_its_own_name():
    users = after(
        "ALTER TABLE users ALTER age SET NOT NULL; ALTER TABLE users DROP CONSTRAINT users_age_not_null", major=18
    )
    assert not users.columns["age"].not_null


def test_not_valid_holds_until_validated():
    users = after("ALTER TABLE users ADD CONSTRAINT c CHECK (age > 0) NOT VALID")
    assert [one.valid for one in users.constraints if one.name == "c"] == [False]
    users = after("ALTER TABLE users ADD CONSTRAINT c CHECK (age > 0) NOT VALID, VALIDATE CONSTRAINT c")
    assert [one.valid for one in users.constraints if one.name == "c"] == [True]
    assert after("CREATE TABLE fresh (x int, CHECK (x > 0) NOT VALID)", "fresh").constraints[0].valid


def test_enforcing_checks_the_rows():
    users = after("ALTER TABLE users ADD CONSTRAINT c CHECK (age > 0) NOT ENFORCED", major=18)
    assert [(one.enforced, one.valid) for one in users.constraints if one.name == "c"] == [(False, False)]
    users = after("ALTER TABLE users ADD FOREIGN KEY (age) REFERENCES orgs NOT ENFORCED,"
                  "ALTER CONSTRAINT users_age_fkey ENFORCED", major=18)  # fmt: skip
    assert [(one.enforced, one.valid) for one in users.constraints if one.name == "users_age_fkey"] == [(True, True)]


def test_a_foreign_key_says_in_full_what_it_references():
    schema = deployed()
    assert [(one.name.name, key.referenced_columns) for one, key in schema.referencing(Name("app", "orgs"))] == [
        ("users", ("id",))
    ]


def test_using_index_takes_the_index_over():
    users = after(
        "CREATE UNIQUE INDEX ready ON users (phone); ALTER TABLE users ADD CONSTRAINT c UNIQUE USING INDEX ready"
    )
    assert keys(users)["c"] == (ConstraintKind.UNIQUE, ("phone",))
    assert (users.indexes["c"].constraint, "ready" in users.indexes) == ("c", False)


def test_a_column_takes_its_indexes_and_constraints_along():
    users = after(
        "CREATE INDEX ON users (age, id); CREATE INDEX ON users (id) WHERE age > 3; CREATE INDEX ON users ((age + 1));"
        "ALTER TABLE users ADD CHECK (age > id), ADD UNIQUE (age); ALTER TABLE users DROP COLUMN age"
    )
    assert list(users.indexes) == ["users_pkey"]
    assert set(keys(users)) == {"users_pkey", "users_org_id_fkey", "users_phone_check"}


def test_a_column_type_forgets_its_collation():
    users = after('ALTER TABLE users ALTER phone TYPE varchar(9) COLLATE "C"; ALTER TABLE users ALTER phone TYPE text')
    assert (users.columns["phone"].type, users.columns["phone"].collation) == (Type("text"), None)


def test_renames_reach_every_place():
    schema = run(
        deployed(),
        "CREATE INDEX ON users (lower(phone)) WHERE phone <> ''; ALTER TABLE users RENAME phone TO tel;"
        "ALTER TABLE orgs RENAME id TO org; ALTER TABLE orgs RENAME TO organisations",
    )
    users = table(schema, "users")
    assert keys(users)["users_phone_check"] == (ConstraintKind.CHECK, ("tel",))
    foreign = next(users.of_kind(ConstraintKind.FOREIGN_KEY))
    assert (foreign.references, foreign.referenced_columns) == (Name("app", "organisations"), ("org",))
    assert "phone" not in repr(users.indexes["users_lower_idx"].expressions)
    view = schema.view(Name(None, "names"))
    assert view is not None
    assert view.reads == (Name("app", "organisations"), Name("app", "users"))
    assert ("app.organisations", "org") in view.columns_read
    assert schema.views[Name("app", "totals")].columns_read == (("app.users", "tel"),)


# --- partitions


def test_a_partition_takes_over_what_its_parent_has():
    part = after("CREATE TABLE events_2 PARTITION OF events DEFAULT", "events_2")
    assert (part.partition_of, part.indexes["events_2_pkey"].parent) == (Name("app", "events"), "events_pkey")
    assert [column.not_null for column in part.columns.values()] == [True, True]


def test_an_index_on_the_parent_reaches_the_partitions():
    schema = run(deployed(), "CREATE INDEX ON events (day); CREATE INDEX later ON ONLY events (id)")
    assert table(schema, "events_1").indexes["events_1_day_idx"].parent == "events_day_idx"
    later = table(schema, "events").indexes["later"]
    assert not later.valid
    run(schema, "CREATE INDEX one ON events_1 (id); ALTER INDEX later ATTACH PARTITION one")
    assert later.valid


def test_attaching_uses_the_indexes_that_match():
    part = after(
        "CREATE INDEX ON events (day); CREATE TABLE p (id int, day date, UNIQUE (day), PRIMARY KEY (id, day));"
        "CREATE INDEX mine ON p (day); ALTER TABLE events ATTACH PARTITION p DEFAULT", "p"
    )  # fmt: skip
    assert {name: index.parent for name, index in part.indexes.items()} == {
        "p_pkey": "events_pkey", "p_day_key": None, "mine": "events_day_idx",
    }  # fmt: skip


def test_columns_of_the_parent_reach_the_partitions():
    part = after(
        "ALTER TABLE events ADD COLUMN x int NOT NULL DEFAULT 3 CHECK (x > 0), DROP COLUMN day CASCADE", "events_1"
    )
    assert list(part.columns) == ["id", "x"]
    assert "events_x_check" in keys(part)


def test_children_take_over_what_is_inherited():
    child = after(
        "CREATE TABLE p (x int CHECK (x > 0), CHECK (x < 9) NO INHERIT); CREATE TABLE c (y int) INHERITS (p)", "c"
    )
    assert set(keys(child)) == {"p_x_check"}
    assert list(child.columns) == ["x", "y"]


def test_circles_are_refused():
    schema = run(
        deployed(), "ALTER TABLE users INHERIT users; ALTER TABLE orgs INHERIT users; ALTER TABLE users INHERIT orgs"
    )
    assert (table(schema, "users").inherits, table(schema, "orgs").inherits) == ((), (Name("app", "users"),))
    run(schema, "ALTER TABLE events_1 ATTACH PARTITION events DEFAULT")
    assert table(schema, "events").partition_of is None


def test_a_unique_index_is_no_primary_key_of_a_partition():
    part = after(
        "CREATE TABLE p (id int, day date); CREATE UNIQUE INDEX own ON p (id, day);"
        "ALTER TABLE events ATTACH PARTITION p DEFAULT", "p"
    )  # fmt: skip
    assert {name: index.parent for name, index in part.indexes.items()} == {"own": None, "p_pkey": "events_pkey"}


# --- drops


@pytest.mark.parametrize(
    ("sql", "left"),
    [
        ("DROP VIEW over_names", {"names", "totals"}),
        ("DROP VIEW names CASCADE", {"totals"}),
        ("DROP TABLE users CASCADE", set()),
        ("ALTER TABLE users DROP COLUMN phone CASCADE", {"names", "over_names"}),
        ("ALTER TABLE orgs DROP COLUMN name CASCADE", {"totals"}),
        ("DROP SCHEMA app CASCADE", set()),
    ],
)
def test_cascade_takes_the_views_that_need_it(sql, left):
    assert {name.name for name in run(deployed(), sql).views} == left


def test_cascade_takes_foreign_keys_and_columns():
    schema = run(deployed(), "DROP TABLE orgs CASCADE")
    assert not list(table(schema, "users").of_kind(ConstraintKind.FOREIGN_KEY))
    assert "m" not in table(run(deployed(), "DROP TYPE mood CASCADE"), "orgs").columns
    assert "mail" not in table(run(deployed(), "DROP DOMAIN email CASCADE"), "orgs").columns
    assert not list(after("ALTER TABLE orgs DROP CONSTRAINT orgs_pkey CASCADE").of_kind(ConstraintKind.FOREIGN_KEY))
    assert not run(deployed(), "DROP TABLE events").children.get(Name("app", "events"))


# --- the search path


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("", ()),
        ('""', ()),
        ('"$user", public', ("public",)),
        ("$user, App", ("app",)),
        ('"A, b" , c', ("A, b", "c")),
        ('"a""b"', ('a"b',)),
        ("a,", ("a",)),
        ('"unended', ()),
    ],
)
def test_values_of_search_path(value, path):
    assert path_of(value) == path


def test_the_search_path_decides_where_new_tables_stand():
    schema = run(Schema(), "SET search_path = a, b; CREATE TABLE t (x int); RESET search_path; CREATE TABLE u (x int)")
    assert set(schema.tables) == {Name("a", "t"), Name("public", "u")}


def test_set_local_ends_with_its_transaction():
    schema = run(Schema(), "SET search_path = a; BEGIN; SET LOCAL search_path = b, c; CREATE TABLE t (); COMMIT")
    assert (schema.search_path, set(schema.tables)) == (("a",), {Name("b", "t")})


def test_temporary_tables_come_first():
    schema = run(deployed(), "CREATE TEMP TABLE users (x int)")
    assert table(schema, "users").name == Name("pg_temp", "users")


# --- views


@pytest.mark.parametrize(
    ("query", "read"),
    [
        ("SELECT * FROM users", {"users.id", "users.org_id", "users.phone", "users.age"}),
        ("SELECT u.* FROM users u, orgs", {"users.id", "users.org_id", "users.phone", "users.age"}),
        ("SELECT name FROM users JOIN orgs ON users.org_id = orgs.id", {"orgs.name", "users.org_id", "orgs.id"}),
        ("SELECT id FROM users JOIN orgs USING (id)", {"users.id", "orgs.id"}),
        ("SELECT x.age FROM (SELECT age FROM users WHERE phone > '') x", {"users.phone", "users.age"}),
        ("WITH q AS (SELECT age AS a FROM users) SELECT a FROM q", {"users.age"}),
        ("SELECT 1 FROM users u WHERE EXISTS (SELECT 1 FROM orgs WHERE id = u.org_id)", {"orgs.id", "users.org_id"}),
        ("SELECT age FROM users UNION SELECT id FROM orgs ORDER BY age", {"users.age", "orgs.id"}),
        ("SELECT count(*) AS n FROM users GROUP BY phone HAVING max(age) > 1 ORDER BY n", {"users.phone", "users.age"}),
        ("SELECT app.users.age FROM app.users", {"users.age"}),
        ("SELECT u.phone FROM users u LEFT JOIN LATERAL (SELECT u.age) l ON true", {"users.phone", "users.age"}),
        ("SELECT names.id FROM names", {"names.id"}),
        ("WITH RECURSIVE r (n) AS (SELECT age FROM users UNION SELECT n + 1 FROM r) SELECT n FROM r", {"users.age"}),
        ("SELECT u FROM users u", set()),
        ("SELECT g FROM generate_series(1, 3) g, users WHERE age = g", {"users.age"}),
    ],
)  # fmt: skip
def test_views_read_columns_of_tables(query, read):
    schema = run(deployed(), f"CREATE VIEW v AS {query}")
    assert {f"{of}.{column}".removeprefix("app.") for of, column in schema.views[Name("app", "v")].columns_read} == read


def test_a_star_of_an_unknown_table_stays_a_star():
    view = run(Schema(), "CREATE VIEW v AS SELECT u.*, x FROM u").views[Name("public", "v")]
    assert view.columns_read == (("public.u", "*"), ("public.u", "x"))


# --- dumps


DUMP = r"""--
-- PostgreSQL database dump
--

\restrict Vx3

-- Dumped from database version 17.5 (Debian 17.5-1)

SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);

CREATE SCHEMA app;
ALTER SCHEMA app OWNER TO bob;

CREATE FUNCTION app.f() RETURNS integer
    LANGUAGE sql
    AS $$
SELECT 1; -- ; \connect
$$;

CREATE TABLE app.t (
    id integer NOT NULL,
    CONSTRAINT t_check CHECK ((id > 0))
);

COPY app.t (id) FROM stdin;
1
\\.
CREATE TABLE no.table_at_all;
\.

ALTER TABLE ONLY app.t ADD CONSTRAINT t_pkey PRIMARY KEY (id);

\unrestrict Vx3
"""


def test_a_dump_is_a_known_schema():
    schema, unread = from_dump(DUMP, source="schema.sql")
    assert not unread
    assert (schema.known, schema.major, schema.source, schema.search_path) == (True, 17, "schema.sql", ("public",))
    assert set(keys(schema.tables[Name("app", "t")])) == {"t_check", "t_pkey"}
    assert schema.functions == {Name("app", "f"): "volatile"}
    assert not schema.new_objects


def test_a_dump_with_other_line_ends_or_by_hand_does_too():
    schema, unread = from_dump(DUMP.replace("\n", "\r\n"), source="x")
    assert (len(schema.tables), schema.major, unread) == (1, 17, [])
    schema, _ = from_dump("create table t (id int primary key); create index on t (id)", source="x")
    assert list(schema.tables[Name("public", "t")].indexes) == ["t_pkey", "t_id_idx"]
    assert schema.major is None


def test_what_cannot_be_read_is_told_with_its_line():
    broken = DUMP.replace("ALTER TABLE ONLY app.t ADD", "ALTER TABEL ONLY app.t ADD")
    schema, unread = from_dump(broken, source="schema.sql")
    line = broken[: broken.index("ALTER TABEL")].count("\n") + 1
    assert [(one.path, one.line) for one in unread] == [("schema.sql", line)]
    assert len(schema.tables) == 1


def test_lines_are_right_in_a_large_dump_too():
    piece = "\n--\n-- Name: t; Type: TABLE\n--\n\nCREATE TABLE t{} (a int);\n\n"
    text = "".join(piece.format(number) for number in range(6000)) + "\n--\n-- Name: x\n--\n\nCREATE TABEL x;\n"
    schema, unread = from_dump(text, source="x")
    assert (len(schema.tables), [one.line for one in unread]) == (6000, [text[: text.index("TABEL")].count("\n") + 1])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no SQL statement"),
        ("-- nothing\n\\restrict x\n", "no SQL statement"),
        ("Dear reader, this is a letter.", "no SQL statement"),
        ("PGDMP\x01\x0e\x00", "archive of pg_dump"),
        ("toc.dat\x00\x00", "archive of pg_dump"),
    ],
)
def test_what_is_no_dump_is_refused(text, says):
    with pytest.raises(UsageError, match=says) as caught:
        from_dump(text, source="schema.sql")
    assert caught.value.hint.startswith(("pg_dump -s", "pg_restore -s"))
