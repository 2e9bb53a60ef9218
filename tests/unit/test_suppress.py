"""Comments that accept a finding: which statement they belong to, what they must say, and squawk's own."""

from __future__ import annotations

from datetime import date

import pytest

from dbsec.findings import Severity
from dbsec.migrations.linter import Options, lint
from dbsec.migrations.operations import Drop
from dbsec.migrations.rule import Example, Hazard, Hit, Refused, Rule
from dbsec.migrations.script import Script
from dbsec.migrations.suppress import suppress
from dbsec.waivers import Waiver

TODAY = date(2026, 11, 23)
UNTIL = "until 2027-01-31 because the table is empty"


def _match(step):
    if step.operation.kind == "table":
        yield Hit(f"app.{step.operation.name.name}", "it goes")


def _rule(code, name, aliases=()):
    words = {
        "title": "t",
        "effect": "e",
        "instead": "i",
        "example": Example("", "", "", Refused("42P01")),
        "source": (),
    }
    return Rule(code, name, severity=Severity.ERROR, hazard=Hazard.LOSES_DATA, applies=(Drop,), match=_match,
                aliases=aliases, **words)  # fmt: skip


RULES = {
    "drop-table": _rule("MIG401", "drop-table", ("ban-drop-table", "E9")),
    "no-alias": _rule("MIG402", "no-alias"),
}
ONE = {"drop-table": RULES["drop-table"]}


def left(sql, *, rules=ONE, entries=(), today=TODAY, path="a.sql", scripts=None):
    """Return the tables still found, and the codes and messages of findings on waivers."""
    scripts = scripts or [Script(path, sql)]
    result = lint(scripts, options=Options(rules=rules))
    done = suppress(result, scripts, rules=RULES, chosen=rules, entries=entries, today=today)
    assert len(done.result.findings) + len(done.waived) == len(result.findings)
    told = [f.target.removeprefix("app.") for f in done.result.findings]
    return told, [(f.code, f.where["line"], f.message) for f in done.own]


def codes(own):
    return [(code, line) for code, line, _ in own]


@pytest.mark.parametrize(
    ("sql", "still"),
    [
        (f"SELECT 1;\n-- dbsec: allow MIG401 {UNTIL}\nDROP TABLE a;\nDROP TABLE b;", ["b"]),
        (f"SELECT 1;\n-- dbsec: allow drop-table app.a {UNTIL}\n\n-- more\nDROP TABLE a;", []),
        (f"SELECT 1;\nDROP TABLE a; -- dbsec: allow MIG401 {UNTIL}\nDROP TABLE b;", ["b"]),
        (f"SELECT 1;\n/* dbsec: allow MIG401 {UNTIL} */ DROP TABLE a;\nDROP TABLE b;", ["b"]),
        (f"SELECT 1;\nDROP TABLE\n  -- dbsec: allow MIG401 {UNTIL}\n  a;\nDROP TABLE b;", ["b"]),
        (f"-- dbsec: allow MIG401 app.b {UNTIL}\nDROP TABLE a;\nDROP TABLE b;\nDROP TABLE b;", ["a"]),
        (f"-- dbsec: allow MIG401 {UNTIL}\nDROP TABLE a;\nDROP TABLE b;", ["b"]),
        (f"SELECT 1;\n-- dbsec: allow MIG401 {UNTIL}\nDO $$ BEGIN\nDROP TABLE a;\nDROP TABLE b;\nEND $$;", []),
        (f"SELECT 1;\nDO $$ BEGIN\nDROP TABLE a;\n-- dbsec: allow MIG401 {UNTIL}\nDROP TABLE b;\nEND $$;", ["a"]),
        (f"SELECT 1;\nSELECT '-- dbsec: allow MIG401 {UNTIL}';\nDROP TABLE a;", ["a"]),
    ],
)
def test_where_an_allow_stands_decides_what_it_covers(sql, still):
    assert left(sql) == (still, [])


def test_the_lines_of_two_files_are_not_confused():
    one = Script("a.sql", f"SELECT 1;\n-- dbsec: allow MIG401 {UNTIL}\nDROP TABLE a;")
    two = Script("b.sql", "SELECT 1;\n\nDROP TABLE a;")
    assert left("", scripts=[one, two])[0] == ["a"]


@pytest.mark.parametrize(
    ("comment", "said"),
    [
        ("dbsec: allow MIG401", "no last day"),
        ("dbsec: allow MIG401 until 2027-01-31", "no reason"),
        (f"dbsec: allow MIG999 {UNTIL}", "no rule 'MIG999'"),
        (f"dbsec: allow drop-tabel {UNTIL}", "did you mean 'drop-table'"),
    ],
)
def test_a_malformed_allow_covers_nothing_and_is_a_finding(comment, said):
    still, own = left(f"SELECT 1;\n-- {comment}\nDROP TABLE a;")
    assert (still, codes(own)) == (["a"], [("WVR001", 2)])
    assert said in own[0][2]


def test_an_expired_allow_covers_nothing_and_is_a_finding():
    still, own = left(f"-- dbsec: allow MIG401 app.a {UNTIL}\nDROP TABLE a;", today=date(2027, 2, 1))
    assert (still, codes(own)) == (["a"], [("WVR002", 1)])


def test_an_allow_that_covers_nothing_is_told_unless_its_rule_did_not_run():
    sql = f"SELECT 1;\n-- dbsec: allow MIG401 app.b {UNTIL}\nDROP TABLE a;"
    still, own = left(sql)
    assert (still, codes(own)) == (["a"], [("WVR003", 2)])
    assert left(f"-- dbsec: allow MIG402 {UNTIL}\nSELECT 1;") == ([], [])


@pytest.mark.parametrize(
    ("sql", "still"),
    [
        ("-- squawk-ignore ban-drop-table\nDROP TABLE a;\nDROP TABLE b;", ["b"]),
        ("-- squawk-ignore x, ban-drop-table because\nDROP TABLE a;\nDROP TABLE b;", ["b"]),
        ("-- squawk-ignore ban-drop-column\nDROP TABLE a;", ["a"]),
        ("-- squawk-ignore\nDROP TABLE a;", ["a"]),
        ("DROP TABLE a;\n-- squawk-ignore-file ban-drop-table\nDROP TABLE b;", []),
        ("-- squawk-ignore-file\nDROP TABLE a;\nDROP TABLE b;", []),
        ("-- squawk-ignore-file ban-drop-column\nDROP TABLE a;", ["a"]),
        ("-- squawk-ignored ban-drop-table\nDROP TABLE a;", ["a"]),
    ],
)
def test_squawks_comments_are_honoured(sql, still):
    assert left(sql) == (still, [])


def test_squawk_does_not_silence_what_it_does_not_know():
    rules = {"no-alias": RULES["no-alias"]}
    assert left("-- squawk-ignore-file\nDROP TABLE a;", rules=rules) == (["a"], [])


def test_entries_of_the_file_cover_by_object():
    entry = Waiver("MIG401", "app.a", "x", date(2027, 1, 1), "me", {"file": "dbsec-waivers.toml"})
    assert left("DROP TABLE a; DROP TABLE b;", entries=[entry]) == (["b"], [])


def test_a_deployed_script_is_not_looked_at():
    script = Script("a.sql", "-- dbsec: allow\nDROP TABLE a;", deployed=True)
    assert left("", scripts=[script]) == ([], [])


def test_the_lines_of_comments_are_those_of_the_file():
    script = Script("a.py", f"SELECT 1;\n-- dbsec: allow MIG401 app.b {UNTIL}\nDROP TABLE a;", lines=(10, 20, 30))
    assert codes(left("", scripts=[script])[1]) == [("WVR003", 20)]
    hash_ = Script(
        "a.py", "DROP TABLE a;\nDROP TABLE b;", lines=(12, 20), comments=((19, f"dbsec: allow MIG401 {UNTIL}"),)
    )
    assert left("", scripts=[hash_]) == (["a"], [])
