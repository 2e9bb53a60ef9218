"""PostgreSQL against the fact base: what was measured once is measured again, on the servers installed here."""

from __future__ import annotations

import copy
import os

import pytest

from dbsec.migrations import facts
from dbsec.migrations.facts import builtins, measuring
from dbsec.migrations.facts.cases import Case, every
from dbsec.pg import connect

STEP = 1 if os.environ.get("DBSEC_FACTS") == "all" else 12  # dbsec migrate facts measures all of them
ALONE = {"create-index-concurrently", "detach-partition-concurrently", "vacuum-full", "create-partition-beside-default"}


@pytest.fixture(scope="module")
def server(cluster_factory):
    """A server for nothing else: autovacuum's locks would be counted as a statement's."""
    return cluster_factory(autovacuum="off")


def sample(major: int) -> list[Case]:
    known = [case for case in every() if case.runs_on(major)]
    return [case for at, case in enumerate(known) if at % STEP == 0 or case.id in ALONE]


def parted(measured: dict, major: int) -> list[str]:
    known = facts.load(major)["cases"]
    plain = {
        case: {**fact, "statements": [_plain(one) for one in fact["statements"]]} for case, fact in measured.items()
    }
    return [f"{case}: {fact} was {known[case]}" for case, fact in plain.items() if fact != known[case]]


def _plain(statement: dict) -> dict:
    return {**statement, "work": [list(pair) for pair in statement["work"]]} if "work" in statement else statement


@pytest.mark.pg(15, 17, 18)
def test_postgresql_still_does_what_was_measured(server, pg_major):
    measured = facts.measure(server.admin, sample(pg_major))
    assert measured["major"] == pg_major
    assert not (table := parted(measured["cases"], pg_major)), "\n".join(table)


@pytest.mark.pg(15, 17, 18)
def test_its_own_functions_and_casts_are_those_that_were_read(server, pg_major):
    with connect(server.admin) as session:
        read = builtins.read(session)
    known = builtins.load(pg_major)
    assert {key: read[key] for key in read if key != "version"} == {
        key: known[key] for key in known if key != "version"
    }


@pytest.mark.pg(18)
def test_a_fact_that_is_wrong_is_seen(server, pg_major):
    chosen = [case for case in every() if case.id == "set-not-null"]
    measured = facts.measure(server.admin, chosen)
    broken = copy.deepcopy(measured["cases"])
    broken["set-not-null"]["statements"][0]["work"] = []
    assert parted(measured["cases"], pg_major) == []
    assert parted(broken, pg_major) != []


@pytest.mark.pg(17)
def test_a_case_whose_old_release_never_worked_is_refused(server):
    case = Case("bad-label", "ALTER TABLE t ADD COLUMN extra int", harm="release", old="SELECT never FROM t")
    with pytest.raises(AssertionError, match="what the old release asks fails before"):
        measuring.measure(server.admin, [case])


@pytest.mark.pg(17)
def test_what_is_measured_is_written_and_read_again(server, tmp_path):
    chosen = [case for case in every() if case.id in ("add-column-nullable", "set-not-null")]
    paths = facts.dump(facts.measure(server.admin, chosen), tmp_path)
    assert [path.name for path in paths] == ["pg17.json", "builtins17.json"]
    assert '"set-not-null"' in paths[0].read_text().splitlines()[-3] + paths[0].read_text().splitlines()[-2]
