"""The engine: one release, statement by statement; what does not fit the schema is told, what is undone is not."""

from __future__ import annotations

import pytest
from msgspec import structs

from dbsec.findings import Severity
from dbsec.migrations.linter import Options, all_rules, lint
from dbsec.migrations.names import Name
from dbsec.migrations.reading import source
from dbsec.migrations.schema.dump import from_dump
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script, Wrap
from dbsec.migrations.stats import Stats, TableStats

DUMP = "CREATE TABLE app.users (id bigint PRIMARY KEY, email text);"


def judged(*texts, dump=DUMP, **options):
    schema = from_dump(dump, source="schema.sql")[0] if dump else Schema()
    scripts = [Script(f"{number}.sql", text) for number, text in enumerate(texts)]
    return lint(scripts, schema=schema, options=Options(**options))


def errors(result):
    return [finding.code for finding in result.findings if finding.severity is Severity.ERROR]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("ALTER TABLE app.orders ADD COLUMN x int", "table 'app.orders' is not in 'schema.sql'"),
        ("CREATE INDEX CONCURRENTLY i ON app.orders (x)", "table 'app.orders'"),
        ("UPDATE orders SET x = 1 WHERE id = 1", "table 'orders'"),
        ("DROP TABLE app.orders", "table 'app.orders'"),
        ("ALTER TABLE app.users ALTER COLUMN fax SET NOT NULL", "column 'fax' of 'app.users'"),
        ("ALTER TABLE app.users RENAME COLUMN fax TO telefax", None),
        ("DROP TABLE IF EXISTS app.orders", None),
        ("ALTER TABLE IF EXISTS app.orders ADD COLUMN x int", None),
        ("UPDATE alembic_version SET version_num = 'a' WHERE version_num = 'b'", None),
        ("CREATE TABLE app.orders (x int); ALTER TABLE app.orders ADD COLUMN y int", None),
    ],
)
def test_what_does_not_fit_the_schema_is_told(sql, reason):
    unread = judged(sql).unread
    assert [reason in one.reason for one in unread] == ([True] if reason else [])
    assert not judged(sql, dump="").unread  # without a schema anything may be there


def test_a_table_of_an_earlier_file_is_new_and_empty():
    assert errors(judged("CREATE TABLE app.n (a int)", "CREATE INDEX ON app.n (a)")) == []
    assert errors(judged("CREATE INDEX ON app.users (email)")) == ["MIG101"]


def test_a_deployed_file_shapes_the_schema_and_gets_no_finding():
    old = Script("1.sql", "CREATE TABLE n (a int); DROP TABLE x;", deployed=True)
    result = lint([old, Script("2.sql", "CREATE INDEX ON n (a)")], schema=Schema())
    assert errors(result) == ["MIG101"]
    assert (result.files, result.statements) == (1, 1)


def test_what_is_rolled_back_breaks_nothing_and_is_not_there_afterwards():
    assert errors(judged("BEGIN; DROP TABLE app.users; ROLLBACK")) == []
    assert errors(judged("BEGIN; CREATE INDEX ON app.users (email); ROLLBACK")) == ["MIG101"]
    assert errors(judged("BEGIN; CREATE TABLE n (a int); ROLLBACK; CREATE TABLE n (a int); DROP TABLE app.users")) == [
        "MIG401"
    ]


@pytest.mark.parametrize(("rows", "expected"), [(12, Severity.WARNING), (12_000_000, Severity.ERROR)])
def test_a_table_that_is_known_to_be_tiny_makes_it_a_warning(rows, expected):
    stats = Stats({Name("app", "users"): TableStats(rows=rows, bytes=rows * 100)})
    (finding,) = [
        one for one in judged("CREATE INDEX ON app.users (email)", stats=stats).findings if one.code == "MIG101"
    ]
    assert finding.severity is expected
    assert f"{rows:,}" in finding.message or " M rows" in finding.message


def test_a_rule_that_is_left_out_is_not_told_under_another_name():
    rest = {name: rule for name, rule in all_rules().items() if rule.code != "MIG201"}
    assert errors(judged("ALTER TABLE app.users ALTER COLUMN id TYPE numeric", rules=rest)) == []


def test_a_finding_says_where_and_what(tmp_path):
    path = tmp_path / "é.sql"
    path.write_text("-- naïve\n\nSELECT 1;\n  DROP TABLE\n app.users;\n")
    (script,), _ = source.read([str(path)])
    (found,) = [one for one in lint([script], schema=from_dump(DUMP, source="s")[0]).findings if one.code == "MIG401"]
    told = found.to_json()
    assert (told["file"], told["line"], told["object"]) == (str(path), 4, "app.users")
    assert told["statement"] == "DROP TABLE\n app.users"
    assert told["hazard"] == "loses data"


def test_every_rule_has_its_own_code_and_name():
    rules = list(all_rules().values())
    assert len({rule.code for rule in rules}) == len(rules) == len(all_rules())


@pytest.mark.parametrize("major", [15, 18])
def test_what_a_rule_says_it_needs_hides_no_finding(major):
    """Asked about an operation that lacks what it ``needs`` all the same, a rule is silent."""
    asked_always = {name: structs.replace(rule, needs=None) for name, rule in all_rules().items()}
    examples = [one for rule in all_rules().values() for one in (rule.example, *rule.more)]
    releases = [
        (Script("0.sql", example.setup, deployed=deployed), Script("1.sql", text, wrap=wrap))
        for example in examples
        for text in (example.bad, example.good)
        for wrap in Wrap
        for deployed in (True, False)
    ]
    found, wanted = (
        [lint(release, options=Options(major, rules=rules)).findings for release in releases]
        for rules in (None, asked_always)
    )
    assert found == wanted
