"""``--fix`` puts safe statements in the place of harmful ones, in files as they are, and is linted itself."""

from __future__ import annotations

import pytest

from dbsec.errors import UsageError
from dbsec.migrations import fix
from dbsec.migrations.linter import Options, lint
from dbsec.migrations.reading import source
from dbsec.migrations.schema.dump import from_dump
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script

SCHEMA = """
CREATE TABLE app.users (id bigint PRIMARY KEY, email text, org_id bigint, n int);
CREATE TABLE app.orgs (id bigint PRIMARY KEY);
"""


def planned(tmp_path, text, *, name="001_change.sql", major=18, encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    scripts, unread = source.read([str(path)])
    assert not unread
    options = Options(major)
    result = lint(scripts, schema=from_dump(SCHEMA, source="schema.sql")[0], options=options)
    return path, *fix.plan(result, scripts, schema=from_dump(SCHEMA, source="schema.sql")[0], options=options)


def fixed(tmp_path, text, **how):
    path, changes, left = planned(tmp_path, text, **how)
    fix.apply(changes)
    return path.read_bytes().decode(), left


def test_statements_are_replaced_where_they_stand(tmp_path):
    text, left = fixed(
        tmp_path,
        "-- é, a comment; with a semicolon\nSET lock_timeout = '1s';\r\n"
        "  CREATE INDEX users_email ON app.users (email) ; -- why\r\nSELECT 1;",
    )
    assert text == (
        "-- é, a comment; with a semicolon\nSET lock_timeout = '1s';\r\n"
        "  CREATE INDEX CONCURRENTLY users_email ON app.users (email); -- why\r\nSELECT 1;"
    )
    assert not left


def test_a_statement_leaves_its_transaction_and_no_empty_one_stays(tmp_path):
    text, _ = fixed(tmp_path, "BEGIN;\nCREATE INDEX i ON app.users (email);\nCOMMIT;\n")
    assert text == "CREATE INDEX CONCURRENTLY i ON app.users (email);\n"


def test_what_stands_beside_it_in_the_transaction_stays_in_one(tmp_path):
    text, _ = fixed(
        tmp_path,
        "BEGIN;\nALTER TABLE app.users ADD fax text;\nCREATE INDEX i ON app.users (email);\nSELECT 1;\nCOMMIT;\n",
    )
    assert text == (
        "BEGIN;\nALTER TABLE app.users ADD fax text;\nCOMMIT;\nCREATE INDEX CONCURRENTLY i ON app.users (email);\n"
        "BEGIN;\nSELECT 1;\nCOMMIT;\n"
    )


def test_the_harmless_clauses_of_an_alter_table_stay(tmp_path):
    text, _ = fixed(
        tmp_path,
        "ALTER TABLE app.users ADD COLUMN fax text DEFAULT 'a,b', ALTER n SET NOT NULL, ALTER email SET DEFAULT '';",
        major=17,
    )
    first, *rest = text.splitlines()
    assert first == "ALTER TABLE app.users ADD COLUMN fax text DEFAULT 'a,b', ALTER email SET DEFAULT '';"
    assert [line.split("app.users ")[1].split()[0] for line in rest] == ["ADD", "VALIDATE", "ALTER", "DROP"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ALTER TABLE app.users DROP COLUMN email;", "no mechanical fix"),
        ("DO $$ BEGIN CREATE INDEX i ON app.users (email); END $$;", "DO block"),
    ],
)
def test_what_is_not_mended_is_told(tmp_path, text, reason):
    path, changes, left = planned(tmp_path, text)
    assert not changes
    assert [reason in one.reason for one in left] == [True]
    assert path.read_text() == text


def test_a_tool_that_wraps_the_file_gets_no_concurrently_into_it(tmp_path):
    text = "-- migrate:up\nCREATE INDEX i ON app.users (email);\n-- migrate:down\nDROP INDEX i;\n"
    _, changes, left = planned(tmp_path, text)
    assert not changes
    assert "wraps the file in a transaction" in left[0].reason


def test_a_statement_that_is_mended_and_one_that_is_not_share_a_file(tmp_path):
    text, left = fixed(tmp_path, "CREATE INDEX i ON app.users (email);\nDROP TABLE app.orgs;\n")
    assert text == "CREATE INDEX CONCURRENTLY i ON app.users (email);\nDROP TABLE app.orgs;\n"
    assert len(left) == 1


def test_a_file_that_changed_meanwhile_is_not_touched(tmp_path):
    path, changes, _ = planned(tmp_path, "CREATE INDEX i ON app.users (email);\n")
    path.write_text("SELECT 1;\n")
    with pytest.raises(UsageError, match="has changed since it was linted"):
        fix.apply(changes)
    assert path.read_text() == "SELECT 1;\n"


def test_the_mode_of_the_file_stays_and_the_diff_applies(tmp_path):
    path, changes, _ = planned(tmp_path, "CREATE INDEX i ON app.users (email);")
    path.chmod(0o640)
    fix.apply(changes)
    assert path.stat().st_mode & 0o777 == 0o640
    assert changes[0].diff.count("\\ No newline at end of file") == 2


CLAUSES = """
CREATE SCHEMA ref;
CREATE DOMAIN ref.nonempty AS varchar(20) CHECK (VALUE <> '');
CREATE DOMAIN ref.deep AS ref.nonempty;
CREATE TABLE d (id int PRIMARY KEY);
CREATE TABLE t (id int CONSTRAINT pk PRIMARY KEY, amount int, body text, x int CONSTRAINT x REFERENCES d);
CREATE UNIQUE INDEX ui ON t (amount);
CREATE TABLE trail (id int, region text) PARTITION BY LIST (region);
CREATE TABLE trail_emea PARTITION OF trail FOR VALUES IN ('emea');
CREATE TABLE trail_rest (id int, region text);
"""


def fix_of(sql, code):
    scripts = [Script("schema.sql", CLAUSES, deployed=True), Script("release.sql", sql)]
    found = lint(scripts, schema=Schema(known=True), options=Options(17)).findings
    (fix,) = (one.fix for one in found if one.code == code)
    return fix.splitlines()


@pytest.mark.parametrize(
    ("clauses", "code", "first"),
    [
        ("ADD COLUMN p int, ADD CONSTRAINT p_ok CHECK (p > 0)", "MIG207", "ADD COLUMN p int"),
        ("ADD COLUMN depot int, ADD FOREIGN KEY (depot) REFERENCES d", "MIG208", "ADD COLUMN depot int"),
        ("ADD COLUMN tok int, ADD UNIQUE (tok)", "MIG108", "ADD COLUMN tok int"),
        ("DROP CONSTRAINT x, ADD CONSTRAINT x FOREIGN KEY (x) REFERENCES d", "MIG208", "DROP CONSTRAINT x"),
        ("DROP CONSTRAINT pk, ADD CONSTRAINT pk PRIMARY KEY USING INDEX ui", "MIG211", "DROP CONSTRAINT pk"),
        (
            "ADD COLUMN nn int, ALTER amount TYPE bigint, ALTER body SET DEFAULT ''",
            "MIG201",
            "ADD COLUMN nn int, ALTER body SET DEFAULT ''",
        ),
        ("ADD y int, ALTER body SET NOT NULL, ADD CHECK (amount > 0)", "MIG207", "ADD y int"),
        ("ADD y int, -- why\n ADD z int -- so\n, ADD CHECK (y > 0)", "MIG207", "ADD y int, ADD z int"),
    ],
)
def test_the_fix_of_a_finding_keeps_the_clauses_beside_it(clauses, code, first):
    one, *rest = fix_of(f"ALTER TABLE t {clauses}", code)
    assert one == f"ALTER TABLE t {first};"
    assert rest
    assert not any(first in line for line in rest)


def test_a_clause_that_needs_the_column_of_a_fix_stands_behind_it():
    fix = fix_of("ALTER TABLE t ADD s serial, ADD CHECK (s > 0) NOT VALID, ADD z int", "MIG203")
    assert fix[0] == "ALTER TABLE t ADD z int;"
    assert fix[-1] == "ALTER TABLE t ADD CHECK (s > 0) NOT VALID;"


def test_a_fix_of_the_whole_statement_does_not_get_its_clauses_twice():
    sql = "ALTER TABLE t ADD y int, ADD z int"
    assert fix_of(sql, "MIG501") == ["SET lock_timeout = '2s';", f"{sql};"]


def test_the_default_partition_gets_no_check_that_cannot_be_said():
    assert fix_of("ALTER TABLE trail ATTACH PARTITION trail_rest DEFAULT", "MIG209") == []


@pytest.mark.parametrize(
    ("sql", "code", "added"),
    [
        ("ALTER TABLE t ADD COLUMN e ref.deep", "MIG205", "e varchar(20)"),
        ("ALTER TABLE t ALTER COLUMN body TYPE ref.nonempty", "MIG201", "body_new varchar(20)"),
        ("ALTER TABLE t ALTER COLUMN amount TYPE ref.deep", "MIG312", "amount_deep varchar(20)"),
    ],
)
def test_a_column_of_a_constrained_domain_gets_the_type_below_it_and_a_check(sql, code, added):
    first, *rest = fix_of(sql, code)
    assert first == f"ALTER TABLE t ADD COLUMN {added};"
    assert any(" CHECK (" in line and "IS NOT DISTINCT FROM" in line and "NOT VALID;" in line for line in rest)
