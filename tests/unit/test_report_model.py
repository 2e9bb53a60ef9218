"""What the report concludes from evidence lines: verdicts, vacuous drills, totals, and the words for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit import report_sample

from dbsec import evidence
from dbsec.errors import EvidenceError, NewerFormat
from dbsec.evidence import Outcome
from dbsec.report import build, reading, verdict
from dbsec.report.model import Integrity, Report

FINE = Integrity(True, "fine")


def line(phase: str, outcome: str, *, control: str = "c", drill: str = "d", chapter: str = "x") -> dict[str, Any]:
    what = {
        "kind": "observation",
        "chapter": chapter,
        "control": control,
        "title": f"title of {control}",
        "drill": drill,
    }
    return {**what, "phase": phase, "outcome": outcome, "summary": "s", "facts": {}, "exhibits": [], "refs": ["R"]}


def report_of(*lines: dict[str, Any]) -> Report:
    return reading.report_of(lines, FINE)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("fail", "pass", Outcome.PASS),
        ("fail", "fail", Outcome.FAIL),
        ("fail", "error", Outcome.ERROR),
        ("fail", "skip", Outcome.SKIP),
        ("fail", None, Outcome.ERROR),
        ("pass", "pass", Outcome.ERROR),
        ("pass", "fail", Outcome.FAIL),
        ("error", "pass", Outcome.ERROR),
        ("skip", "pass", Outcome.ERROR),
        ("skip", "skip", Outcome.SKIP),
        (None, "pass", Outcome.PASS),
        (None, "fail", Outcome.FAIL),
        ("unheard of", "pass", Outcome.ERROR),
    ],
)
def test_a_control_holds_only_where_the_attack_succeeded_before_and_fails_after(
    before: str | None, after: str | None, expected: Outcome
) -> None:
    lines = [line(phase, outcome) for phase, outcome in (("before", before), ("after", after)) if outcome]
    assert report_of(*lines).controls[0].verdict is expected


def test_fail_beats_error_and_error_beats_pass_over_the_drills_of_a_control() -> None:
    good = [line("before", "fail", drill="good"), line("after", "pass", drill="good")]
    vacuous = [line("before", "pass", drill="vacuous"), line("after", "pass", drill="vacuous")]
    bad = [line("before", "fail", drill="bad"), line("after", "fail", drill="bad")]
    assert report_of(*good, *vacuous).controls[0].verdict is Outcome.ERROR
    assert report_of(*good, *vacuous, *bad).controls[0].verdict is Outcome.FAIL


def test_a_vacuous_before_is_shown_as_an_error_of_ours() -> None:
    (control,) = report_of(line("before", "pass"), line("after", "pass")).controls
    assert (control.vacuous, control.before, control.after) == (True, Outcome.ERROR, Outcome.PASS)
    assert control.drills[0].seen[0].judged is Outcome.ERROR


def test_the_system_as_found_stands_in_for_before_but_proves_no_attack() -> None:
    report = report_of(line("baseline", "fail"), line("after", "pass"))
    assert report.controls[0].before is Outcome.FAIL
    assert report.totals.attacks_before == 0


def test_what_was_only_looked_at_is_listed_apart_and_not_counted() -> None:
    report = report_of(line("baseline", "fail"), line("baseline", "pass", control="fine"))
    assert (report.controls, report.totals.controls) == ((), 0)
    assert [row.id for row in report.as_found] == ["c"]
    assert verdict.headline(report) == "No control was attacked in this run"


def test_controls_that_do_not_apply_are_not_in_the_denominator() -> None:
    lines = [line("before", "fail"), line("after", "pass"), line("during", "skip", control="other")]
    assert verdict.headline(report_of(*lines)) == "1 of 1 control holds after hardening"
    assert verdict.lead(report_of(*lines)).endswith("1 control did not apply.")


def test_totals_and_words_of_the_sample(tmp_path: Path) -> None:
    report = build(report_sample.write(tmp_path / "evidence.jsonl"), tmp_path).report
    totals = report.totals
    assert (totals.controls, totals.held, totals.failed, totals.unproven, totals.vacuous) == (11, 8, 1, 2, 1)
    assert (totals.attacks_before, totals.attacks_refused, totals.attacks_after) == (12, 11, 0)
    assert verdict.overall(report) is Outcome.FAIL
    assert verdict.headline(report) == "8 of 11 controls hold after hardening"
    assert verdict.lead(report) == (
        "12 attacks succeeded before; 11 of them are refused now. 2 controls could not be proven. "
        "1 drill proved nothing, since the attack failed before hardening too. 1 risk found, and still open."
    )


def test_a_clean_run_says_so(tmp_path: Path) -> None:
    report = build(report_sample.write(tmp_path / "evidence.jsonl", clean=True), tmp_path).report
    assert verdict.overall(report) is Outcome.PASS
    assert verdict.headline(report) == "9 of 9 controls hold after hardening"
    assert verdict.lead(report) == "11 attacks succeeded before; all are refused now. 1 risk found, and still open."


def test_an_attack_that_still_succeeds_is_said_first(tmp_path: Path) -> None:
    report = report_of(line("before", "fail"), line("after", "fail"))
    assert verdict.lead(report) == "1 attack succeeded before; 0 of them are refused now, 1 attack still succeeds."


def test_chapters_keep_the_order_of_the_run_and_slo_lines_have_their_own_section(tmp_path: Path) -> None:
    report = build(report_sample.write(tmp_path / "evidence.jsonl"), tmp_path).report
    assert [c.title for c in report.chapters] == ["Baseline", "Roles and rights", "Encryption in transit"]
    assert [c.id for c in report.slo] == ["slo.p99"]
    assert report.titles["service"] == "The service meanwhile"
    assert all(not c.id.startswith("slo") for chapter in report.chapters for c in chapter.controls)


def test_a_chapter_without_its_line_and_one_without_observations_are_shown() -> None:
    opened = {"kind": "chapter", "chapter": "empty", "title": "Nothing yet", "summary": "s"}
    assert [c.title for c in report_of(opened, line("after", "pass")).chapters] == ["Nothing yet", "x"]


def test_anchors_are_unique_even_where_names_are_not() -> None:
    names = ("a-2", "a", "a!", "A", "", "§")
    report = report_of(*(line("after", "pass", control=name, chapter=name) for name in names))
    anchors = [c.anchor for c in report.controls] + [c.anchor for c in report.chapters]
    assert len(set(anchors)) == 2 * len(names)


def test_misshapen_lines_are_shown_as_text() -> None:
    wrong = {
        "kind": "observation",
        "control": 7,
        "title": ["x"],
        "refs": "R",
        "facts": [1],
        "exhibits": {},
        "seconds": "z",
    }
    (control,) = report_of(wrong).controls
    assert (control.id, control.title, control.refs, control.verdict) == ("7", "['x']", (), Outcome.ERROR)
    assert control.seen[0].facts == {"facts": [1]}


def test_provenance_names_every_actor_and_the_target(tmp_path: Path) -> None:
    report = build(report_sample.write(tmp_path / "evidence.jsonl"), tmp_path).report
    told = dict(verdict.provenance(report))
    assert told["Target system identifier"] == "7574003925512683521"
    assert (told["Run by"], told["On host"], told["Revision"], told["Ticket"]) == (
        "deploy",
        "db-1.lab",
        "c71e3d9",
        "SEC-1042",
    )
    head = list(evidence.read(tmp_path / "evidence.jsonl"))[-1]["head"]
    assert told["Head of the chain"] == head
    assert verdict.target(report) == "PostgreSQL 17.10, database shop, system 7574003925512683521"


def test_unsealed_evidence_is_shown_and_never_called_a_success(tmp_path: Path) -> None:
    report = build(report_sample.write(tmp_path / "evidence.jsonl", clean=True, sealed=False), tmp_path).report
    assert report.totals.held == 9
    assert verdict.overall(report) is Outcome.ERROR
    assert "the seal is missing" in report.integrity.text


def test_what_stands_before_a_torn_line_is_kept(tmp_path: Path) -> None:
    path = report_sample.write(tmp_path / "evidence.jsonl", clean=True)
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:10]) + whole[10][:40])
    report = build(path, tmp_path).report
    assert report.origin.lines == 10
    assert report.integrity.text.startswith("line 11: ")


def test_a_missing_file_and_a_newer_format_are_errors(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError):
        build(tmp_path / "none.jsonl", tmp_path)
    (tmp_path / "evidence.jsonl").write_text('{"format":9}\n')
    with pytest.raises(NewerFormat):
        build(tmp_path / "evidence.jsonl", tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drop a table", "Drop a table"),
        ("refused: no", "Refused: no"),
        ("pg_hba.conf has it", "pg_hba.conf has it"),
        ("TRUNCATE as x", "TRUNCATE as x"),
        ("", ""),
    ],
)
def test_a_sentence_begins_with_a_capital_but_a_name_is_left_alone(text: str, said: str) -> None:
    assert verdict.sentence(text) == said
