"""The linter against what PostgreSQL 15, 17 and 18 were measured to do: locks, work, and a verdict on each case."""

from __future__ import annotations

import copy
import pickle
import re
from functools import cache
from typing import NamedTuple

import pytest

from dbsec.findings import Severity
from dbsec.migrations import facts
from dbsec.migrations.effects.model import NOTHING, Effect, LockMode, Task, Work
from dbsec.migrations.facts import builtins
from dbsec.migrations.facts.cases import Case, every, schema_sql
from dbsec.migrations.linter import Options, all_rules, lint
from dbsec.migrations.names import Name
from dbsec.migrations.oracle.comparing import disagreements
from dbsec.migrations.oracle.foretelling import LISTENS, Key, Listener, key
from dbsec.migrations.reading.parse import parse, parse_text
from dbsec.migrations.schema.dump import from_dump
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script
from dbsec.migrations.statement import Origin, Statement

MEASURED = [(case, major) for major in facts.MEASURED for case in every() if case.runs_on(major)]
PROVEN_HARM = ("release", "data")
# Where the linter is known to be wrong: an entry that no longer is must go.
WRONG_EFFECT = {
    "drop-server-cascade": "foreign tables of a server",
}
WRONG_VERDICT = {
    "replace-view-type": "42P16 is not foretold where a view's column gets another type",
    "enum-new-type-and-use-before-17": "a new label of a new type is refused up to 16",
}


def still(wrong: dict[str, str], major: int) -> set[str]:
    return {case.id for case, of in MEASURED if of == major and case.id in wrong}


class Judged(NamedTuple):
    """What the linter says of a case: the effect of each statement, the codes of errors, the tables before it."""

    statements: list[Statement]
    foretold: dict[Key, Effect]
    errors: set[str]
    tables: set[Name]


@cache
def deployed(setup: str) -> bytes:
    schema, unread = from_dump(f"{schema_sql()}\n{setup};", source="setup.sql")
    assert unread == []
    return pickle.dumps(schema)


@cache
def judged(case: Case, major: int) -> Judged:
    schema: Schema = pickle.loads(deployed(case.setup))
    schema.major = major
    tables = {*schema.tables, *schema.views}
    script = Script("case.sql", case.sql)
    listener = Listener()
    options = Options(major, rules={**all_rules(), LISTENS: listener.rule()})
    found = lint([script], schema=schema, options=options)
    assert found.unread == [], case.id
    errors = {finding.code for finding in found.findings if finding.severity is Severity.ERROR}
    statements = [one for one in parse(script)[0] if one.origin is Origin.DIRECT]
    return Judged(statements, listener.heard(), errors, tables)


def name(text: str) -> Name:
    schema, _, relation = text.partition(".")
    return Name(schema, relation)


def effect(fact: dict) -> Effect:
    locks = tuple((name(table), LockMode(mode)) for table, mode in fact["locks"].items())
    return Effect(locks, tuple(Task(Work(work), name(table)) for work, table in fact["work"]))


def parted(case: Case, major: int) -> list[str]:
    """Compare what is foretold of a case with the fact base; a statement that fails has nothing to compare."""
    said = judged(case, major)
    found: list[str] = []
    held: dict[Name, LockMode] = {}
    for statement, fact in zip(said.statements, facts.load(major)["cases"][case.id]["statements"], strict=True):
        if "error" not in fact:
            seen = effect(fact)
            before = held if statement.block else {}
            told = said.foretold.get(key(statement), NOTHING)
            found += disagreements(told, seen, tables=said.tables, held=before)
            held.update({table: max(mode, held.get(table, mode)) for table, mode in seen.locks})
    return found


@pytest.mark.parametrize("major", facts.MEASURED)
def test_what_is_foretold_is_what_was_measured(major):
    table = {case.id: lines for case, of in MEASURED if of == major and (lines := parted(case, major))}
    shown = [f"{case}: {line}" for case, lines in table.items() if case not in WRONG_EFFECT for line in lines]
    assert not shown, "\n".join(["the linter and the fact base part:", *shown])
    assert not (right := still(WRONG_EFFECT, major) - table.keys()), f"no longer wrong: {sorted(right)}"


@pytest.mark.parametrize("major", facts.MEASURED)
def test_every_harmful_case_is_an_error_and_no_harmless_one_is(major):
    table = {}
    for case, of in MEASURED:
        if of != major:
            continue
        harmful = facts.load(major)["cases"][case.id]["harmful"]
        if harmful is not None and bool(found := judged(case, major).errors) != harmful:
            table[case.id] = "harmful, and no error" if harmful else f"harmless, and {sorted(found)}"
    shown = [f"{case}: {line}" for case, line in table.items() if case not in WRONG_VERDICT]
    assert not shown, "\n".join(["verdicts that are wrong:", *shown])
    assert not (right := still(WRONG_VERDICT, major) - table.keys()), f"no longer wrong: {sorted(right)}"


def test_a_linter_that_is_wrong_is_seen(monkeypatch):
    """Break the fact base on purpose: both tables must show it."""
    broken, load = copy.deepcopy(facts.load(18)), facts.load
    broken["cases"]["set-not-null"]["statements"][0]["work"] = []
    broken["cases"]["set-not-null"]["harmful"] = False
    broken["cases"]["create-index-concurrently"]["statements"][0]["locks"]["public.t"] = 5
    wrong = {18: broken}
    monkeypatch.setattr(facts, "load", lambda of: wrong.get(of) or load(of))  # hook: ok facts, broken on purpose
    with pytest.raises(AssertionError, match=r"set-not-null: scan of public\.t: PostgreSQL does not do it"):
        test_what_is_foretold_is_what_was_measured(18)
    with pytest.raises(AssertionError, match="create-index-concurrently: lock on public"):
        test_what_is_foretold_is_what_was_measured(18)
    with pytest.raises(AssertionError, match="set-not-null: harmless, and"):
        test_every_harmful_case_is_an_error_and_no_harmless_one_is(18)


@pytest.mark.parametrize("major", facts.MEASURED)
def test_the_fact_base_has_every_case_and_no_other(major):
    assert sorted(facts.load(major)["cases"]) == sorted(case.id for case, of in MEASURED if of == major)
    assert facts.load(major)["major"] == major


def test_there_are_enough_cases_each_with_an_id_of_its_own():
    ids = [case.id for case in every()]
    assert len(ids) == len(set(ids)) >= 220
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", one) for one in ids)


@pytest.mark.parametrize("major", facts.MEASURED)
def test_a_label_by_hand_is_proven(major):
    """What is said to break the release broke it, what is said to fail failed, where it was measured."""
    measured = facts.load(major)["cases"]
    for case in (case for case, of in MEASURED if of == major):
        fact = measured[case.id]
        failed = any("error" in statement for statement in fact["statements"])
        if case.harm in PROVEN_HARM:
            assert fact.get("breaks") or fact.get("loses"), case.id
        if case.harm == "fails":
            assert failed, case.id
        elif case.judge:
            assert not failed, case.id


@pytest.mark.parametrize("case", every(), ids=lambda case: case.id)
def test_a_case_is_sql_that_can_be_read(case):
    assert parse_text(case.sql)
    assert parse(Script("case.sql", f"{case.setup};{case.sql}"))[1] == []


@pytest.mark.parametrize("major", [14, 15, 16, 17, 18])
def test_what_a_server_says_of_its_own_functions_is_there_for_each_major(major):
    lists = builtins.load(major)
    assert {"random", "clock_timestamp", "gen_random_uuid"} <= set(lists["volatile"])
    assert "now" not in lists["volatile"]
    assert ["varchar", "text"] in lists["binary_casts"]


def test_a_major_that_was_not_measured_has_no_facts():
    with pytest.raises(KeyError):
        facts.load(14)
