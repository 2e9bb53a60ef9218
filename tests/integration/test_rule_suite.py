"""The contract suite of rules is broken on purpose: each kind of proof must see a claim that does not hold."""

from __future__ import annotations

import secrets

import pytest
from msgspec.structs import replace

from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.linter import all_rules
from dbsec.migrations.rule import Breaks, Example, Locks, Loses, Queues, Refused, Shows, Warned
from dbsec.pg import connect
from dbsec.testing import rules as suite
from dbsec.testing.proofs import prove
from dbsec.testing.rules import Bench, Scratch

SETUP = "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t SELECT g, g FROM generate_series(1, 200) g;"
NOTHING = "SELECT 1;"
ADD = "ALTER TABLE t ADD COLUMN b int;"
INDEX = "CREATE INDEX t_a ON t (a);"
CONCURRENTLY = "CREATE INDEX CONCURRENTLY t_a ON t (a);"
DROP = "ALTER TABLE t DROP COLUMN a;"
AX = LockMode.ACCESS_EXCLUSIVE

# what does not hold, and what the suite must say of it
LIES = {
    "bad does not do the work": (Locks(AX, "t", Work.REWRITE), ADD, NOTHING, "bad does no rewrite"),
    "bad takes a weaker lock": (
        Locks(AX, "t", Work.BUILD),
        INDEX,
        CONCURRENTLY,
        "bad does no index build under ACCESS",
    ),
    "bad locks another table": (Locks(AX, "u", None), ADD, NOTHING, "bad does not take ACCESS EXCLUSIVE on public.u"),
    "good does it too": (Locks(LockMode.SHARE, "t", Work.BUILD), INDEX, INDEX, "good does the same on public.t"),
    "good locks as long": (Locks(AX, "t"), ADD, ADD, "good holds ACCESS EXCLUSIVE on public.t as long as bad"),
    "bad fails": (Locks(AX, "t", Work.SCAN), "ALTER TABLE no ADD b int;", NOTHING, "bad fails: 42P01"),
    "bad breaks nothing": (Breaks("SELECT a FROM t", "42703"), ADD, NOTHING, "old ends with 'success' after bad"),
    "another SQLSTATE": (Breaks("SELECT a FROM t", "42P01"), DROP, NOTHING, "old ends with '42703' after bad"),
    "good breaks it": (Breaks("SELECT a FROM t", "42703"), DROP, DROP, "old fails after good: 42703"),
    "old never worked": (Breaks("SELECT z FROM t", "42703"), DROP, NOTHING, "old fails before already: 42703"),
    "bad loses nothing": (Loses("SELECT sum(a) FROM t"), ADD, NOTHING, "bad loses nothing"),
    "good loses": (Loses("SELECT sum(a) FROM t"), DROP, "DELETE FROM t;", "good changes what query shows"),
    "bad is not refused": (Refused("25001"), CONCURRENTLY, NOTHING, "bad does not end with 25001: it works"),
    "good is refused": (Refused("25001"), "BEGIN; VACUUM; COMMIT;", "BEGIN; VACUUM; COMMIT;", "good fails: 25001"),
    "bad does not warn": (Warned("25P01"), "BEGIN; SET LOCAL work_mem = '5MB'; COMMIT;", NOTHING, "no notice 25P01"),
    "good warns": (Warned("25P01"), "COMMIT;", "COMMIT;", "good gives the notice 25P01 too"),
    "another value": (Shows("SELECT count(*) FROM t", "0"), ADD, NOTHING, "query shows '200' after bad, not '0'"),
    "good shows it too": (Shows("SELECT count(*) FROM t", "200"), ADD, NOTHING, "query shows '200' after good"),
    "bad does not wait": (Queues("SELECT FROM t", "t"), NOTHING, NOTHING, "bad does not wait for the blocker"),
    "nobody waits behind": (
        Queues("LOCK t IN SHARE MODE", "t"),
        CONCURRENTLY,
        NOTHING,
        "neither a reader nor a writer",
    ),
    "good waits for ever": (Queues("SELECT FROM t", "t"), ADD, ADD, "good waits for as long as the blocker is there"),
}


@pytest.fixture
def bench(cluster):
    scratch = Scratch(cluster, f"suite_{secrets.token_hex(4)}")
    yield Bench(scratch)
    scratch.drop()


@pytest.mark.parametrize("lie", LIES)
def test_a_proof_that_does_not_hold_is_seen(bench, lie):
    proof, bad, good, said = LIES[lie]
    wrong = prove(Example(SETUP, bad, good, proof), bench)
    assert any(said in line for line in wrong), wrong


def test_a_proof_that_holds_is_silent(bench):
    assert prove(Example(SETUP, INDEX, CONCURRENTLY, Locks(LockMode.SHARE, "t", Work.BUILD)), bench) == []
    timed = "SET lock_timeout = '50ms'; " + ADD
    assert prove(Example(SETUP, ADD, timed, Queues("SELECT FROM t", "t")), bench) == []
    snapshot = Refused("55P03", blocker="SELECT FROM t")
    assert prove(Example(SETUP, "SET lock_timeout = '50ms'; " + CONCURRENTLY, CONCURRENTLY, snapshot), bench) == []


def test_verdicts_and_words_that_do_not_hold_are_seen():
    rule = all_rules()["index-without-concurrently"]
    assert suite.verdicts(rule, 18) == []
    swapped = replace(rule.example, bad=rule.example.good, good=rule.example.bad)
    wrong = suite.verdicts(replace(rule, example=swapped, more=()), 18)
    assert [line.split(", not")[0].split(" gives")[0] for line in wrong] == ["example 0: bad", "example 0: good"]
    assert suite.words(rule) == []
    assert len(suite.words(replace(rule, code="X1", name="No Name", title="a.", effect="x", source=()))) == 5


def test_a_fix_that_fails_is_seen(bench):
    rule = all_rules()["index-without-concurrently"]

    def broken(step):
        return (replace(hit, fix="CREATE INDEX CONCURRENTLY x ON not_there (a);") for hit in rule.match(step))

    assert suite.fixes(rule, bench) == []
    (wrong,) = suite.fixes(replace(rule, match=broken, more=()), bench)
    assert "the fix fails: 42P01" in wrong


def test_a_scratch_database_is_empty_again_whatever_an_example_left(cluster):
    scratch = Scratch(cluster, f"suite_{secrets.token_hex(4)}")
    for left in (
        "CREATE SCHEMA s; CREATE TABLE s.t (id int); SET search_path = s; CREATE TEMP TABLE x (id int)",
        "CREATE PUBLICATION p FOR ALL TABLES",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 99', current_database()); END $$",
        "DROP EXTENSION plpgsql",
    ):
        with scratch.fresh() as (conninfo, session):
            session.execute(left.encode())
            with connect(conninfo) as other:
                other.execute("BEGIN; SELECT 1")
    with scratch.fresh() as (_, session):
        assert session.execute("SHOW work_mem").fetchone() == ("4MB",)
        assert session.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)
        assert session.execute("SELECT to_regclass('s.t'), to_regclass('x')").fetchone() == (None, None)
        session.execute("DO 'BEGIN END'")
    scratch.drop()
