"""Waivers: what a comment and an entry of the file must say, what they cover, and what is said of stale ones."""

from __future__ import annotations

from datetime import date

import pytest

from dbsec import waivers
from dbsec.errors import ConfigError
from dbsec.findings import Finding, Severity
from dbsec.waivers import MalformedWaiver, Waiver

TODAY = date(2026, 11, 23)
HERE = {"file": "a.sql", "line": 3}
WHOLE = """
[[waiver]]
code = "MIG101"
object = "app.users"
owner = "payments"
reason = "200 rows"
expiry = 2027-01-31
"""


def finding(code="MIG101", name="index-without-concurrently", target="app.users.phone"):
    return Finding(code, name, Severity.ERROR, target, "it blocks", where={"file": "a.sql", "line": 9})


def test_an_inline_waiver_says_all_that_one_must():
    text = " dbsec: allow MIG101 app.users until 2027-01-31 because it has 200 rows until we grow "
    found = waivers.inline(text, HERE)
    reason = "it has 200 rows until we grow"
    assert found == Waiver("MIG101", "app.users", reason, date(2027, 1, 31), where=HERE)


@pytest.mark.parametrize(
    ("text", "code", "target"),
    [
        ("dbsec: allow MIG101 until 2027-01-31 because x", "MIG101", ""),
        ("dbsec:allow drop-column app.f(int, text) until 2027-01-31 because x", "drop-column", "app.f(int, text)"),
        ('dbsec: allow MIG101 "Odd Name"."x" until 2027-01-31 because x', "MIG101", '"Odd Name"."x"'),
    ],
)
def test_rules_by_name_and_objects_of_any_shape(text, code, target):
    found = waivers.inline(text, HERE)
    assert (found.code, found.target) == (code, target)


@pytest.mark.parametrize("text", ["dbsec: phase expand", "we allow MIG101 here", "dbsec: allowance", ""])
def test_other_comments_are_no_waivers(text):
    assert waivers.inline(text, HERE) is None


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("dbsec: allow", "names no rule"),
        ("dbsec: allow until 2027-01-31 because x", "names no rule"),
        ("dbsec: allow MIG101", "no last day"),
        ("dbsec: allow MIG101 app.users because x", "no last day"),
        ("dbsec: allow MIG101 until because x", "no last day"),
        ("dbsec: allow MIG101 until tomorrow because x", "'tomorrow' is no day"),
        ("dbsec: allow MIG101 until 2027-02-30 because x", "'2027-02-30' is no day"),
        ("dbsec: allow MIG101 until 2027-01-31", "no reason"),
        ("dbsec: allow MIG101 until 2027-01-31 because  ", "no reason"),
    ],
)
def test_what_an_inline_waiver_lacks_is_said(text, lacks):
    with pytest.raises(MalformedWaiver, match=lacks):
        waivers.inline(text, HERE)


def test_the_file_is_read(tmp_path):
    (tmp_path / "w.toml").write_text(WHOLE)
    (found,) = waivers.load(tmp_path / "w.toml")
    assert (found.code, found.target, found.owner, found.expiry) == (
        "MIG101",
        "app.users",
        "payments",
        date(2027, 1, 31),
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('code = "MIG101"', "", "waiver 1: it names no rule"),
        ('object = "app.users"', "", "waiver 1: it names no object"),
        ('owner = "payments"', "", "waiver 1: it names no owner"),
        ('reason = "200 rows"', "", "waiver 1: it gives no reason"),
        ("expiry = 2027-01-31", "", "waiver 1: it has no last day"),
        ("expiry = 2027-01-31", 'expiry = "soon"', "waiver 1: 'soon' is no day"),
        ('owner = "payments"', "owner = 7", "waiver 1: its owner is no text"),
        ('owner = "payments"', 'owner = "x"\nuntil = 1', "waiver 1: 'until' is not known"),
        ("[[waiver]]", "[waiver]", "'waiver' is not known"),
        ("[[waiver]]", "[[waive]]", "'waive' is not known"),
        ("[[waiver]]", "[[waiver]", "is not TOML"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path, old, new, said):
    path = tmp_path / "w.toml"
    path.write_text(WHOLE.replace(old, new))
    with pytest.raises(ConfigError) as refused:
        waivers.load(path)
    assert said in str(refused.value)
    assert refused.value.hint


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        waivers.load(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("target", "covered"),
    [
        ("", True),
        ("app", True),
        ("app.users", True),
        ("app.users.phone", True),
        ("app.user", False),
        ("users", False),
        ("app.users.phone.x", False),
    ],
)
def test_an_object_covers_what_stands_in_it(target, covered):
    assert Waiver("MIG101", target, "x", TODAY).covers(finding()) is covered


def test_public_may_be_left_out():
    assert Waiver("MIG101", "users", "x", TODAY).covers(finding(target="public.users.phone"))
    assert Waiver("MIG101", "public.users", "x", TODAY).covers(finding(target="users"))


def test_another_rule_is_not_covered():
    assert not Waiver("MIG102", "", "x", TODAY).covers(finding())
    assert Waiver("index-without-concurrently", "", "x", TODAY).covers(finding())


def test_the_last_day_counts_and_the_next_does_not():
    waiver = Waiver("MIG101", "", "x", TODAY, where=HERE)
    assert waivers.apply([finding()], [waiver], today=TODAY).kept == []
    after = waivers.apply([finding()], [waiver], today=date(2026, 11, 24))
    assert after.kept == [finding()]
    assert [(f.code, str(f.severity)) for f in after.own] == [("WVR002", "warning")]
    assert "ended on 2026-11-23" in after.own[0].message


def test_a_comment_that_covers_nothing_is_told_and_an_entry_of_the_file_is_not():
    inline = Waiver("MIG999", "", "x", TODAY, where=HERE)
    entry = Waiver("MIG999", "app", "x", TODAY, where={"file": "dbsec-waivers.toml"})
    done = waivers.apply([finding()], [inline, entry], today=TODAY)
    assert [f.code for f in done.own] == ["WVR003"]
    assert done.own[0].where["line"] == 3
    assert done.kept == [finding()]
    expired = Waiver("MIG101", "app", "x", date(2020, 1, 1), where={"file": "dbsec-waivers.toml"})
    assert [f.code for f in waivers.apply([finding()], [expired], today=TODAY).own] == ["WVR002"]
