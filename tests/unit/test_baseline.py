"""A baseline holds back what was there, not what is new, and tells what has gone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dbsec import baseline
from dbsec.errors import ConfigError, NewerFormat
from dbsec.findings import Finding, Severity


def finding(statement="DROP TABLE a", line=1, file="a.sql", target="app.a"):
    where = {"file": file, "line": line, "statement": statement, "hazard": "loses data"}
    return Finding("MIG401", "drop-table", Severity.ERROR, target, "gone", where=where)


def test_the_key_stays_when_lines_and_white_space_move():
    assert finding().key == finding("DROP\n  TABLE  a", line=90).key
    assert len({finding().key, finding("DROP TABLE b").key, finding(file="b.sql").key, finding(target="b").key}) == 4
    assert finding().key == replace(finding(), message="other words", severity=Severity.WARNING).key


def test_what_is_known_is_held_back_as_often_as_it_was_there(tmp_path):
    path = tmp_path / "baseline.json"
    assert baseline.write(path, [finding(), finding(line=9)]) == 2
    done = baseline.compare(path, [finding(line=3), finding(line=4), finding(line=5), finding("DROP TABLE c")])
    assert [f.where["line"] for f in done.new] == [5, 1]
    assert len(done.known) == 2
    assert done.gone == []


def test_what_has_gone_is_told(tmp_path):
    path = tmp_path / "baseline.json"
    baseline.write(path, [finding(), finding(file="b.sql")])
    done = baseline.compare(path, [finding()])
    assert [line.split(" (")[0] for line in done.gone] == ["b.sql: MIG401 app.a"]


def test_the_file_is_the_same_for_the_same_findings(tmp_path):
    baseline.write(tmp_path / "a", [finding(), finding(file="0.sql")])
    baseline.write(tmp_path / "b", [finding(file="0.sql"), finding()])
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"magic": "dbsec-baseline", "version": 1}',
        '{"magic": "dbsec-baseline", "findings": [{"k": 1}]}',
    ],
)
def test_what_is_no_baseline_is_refused(tmp_path, text):
    (tmp_path / "b").write_text(text)
    with pytest.raises(ConfigError) as refused:
        baseline.compare(tmp_path / "b", [])
    assert refused.value.hint


def test_a_newer_file_and_an_absent_one_are_refused(tmp_path):
    (tmp_path / "b").write_text(json.dumps({"magic": "dbsec-baseline", "version": 2, "findings": []}))
    with pytest.raises(NewerFormat):
        baseline.compare(tmp_path / "b", [])
    with pytest.raises(ConfigError, match="cannot read"):
        baseline.compare(tmp_path / "absent", [])
