"""What every rule owes: words, a verdict on its own examples, and a proof of them by PostgreSQL 15, 17 and 18."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from dbsec import discovery
from dbsec.migrations import rules as package
from dbsec.testing import rules as suite
from dbsec.testing.clusters import Cluster
from dbsec.testing.rules import Bench, Scratch

RULES = discovery.constants_in(package, "RULE")
MAJORS = (15, 17, 18)


@pytest.fixture(scope="module")
def bench(cluster: Cluster) -> Iterator[Bench]:
    scratch = Scratch(cluster, f"rules_{secrets.token_hex(4)}")
    yield Bench(scratch)
    scratch.drop()


@pytest.mark.parametrize("name", RULES)
def test_its_words_are_there(name):
    assert RULES[name].name == name.replace("_", "-")
    assert suite.words(RULES[name]) == []


def test_codes_and_names_are_unique():
    codes = [rule.code for rule in RULES.values()]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("major", [14, *MAJORS])
@pytest.mark.parametrize("name", RULES)
def test_the_linter_reports_bad_and_not_good(name, major):
    rule = RULES[name]
    if suite.applies_to(rule, major):
        assert suite.verdicts(rule, major) == []


@pytest.mark.pg(*MAJORS)
@pytest.mark.parametrize("name", RULES)
def test_postgresql_proves_it(name, bench, pg_major):
    rule = RULES[name]
    if suite.applies_to(rule, pg_major):
        assert suite.proofs(rule, bench) == []


@pytest.mark.pg(15, 18)  # what is offered differs between before 18 and 18
@pytest.mark.parametrize("name", RULES)
def test_what_it_offers_instead_runs(name, bench, pg_major):
    rule = RULES[name]
    if suite.applies_to(rule, pg_major):
        assert suite.fixes(rule, bench) == []
