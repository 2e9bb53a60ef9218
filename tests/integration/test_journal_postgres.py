"""A journal in the database: its records live and die with the caller's transaction, and one session holds a job."""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from dbsec import files
from dbsec.errors import ApplyError, JournalError, LabError, NewerFormat
from dbsec.journal import Edge, Journal, PostgresStore, Transactional, jobs
from dbsec.pg import connect, own
from dbsec.testing.faults import Job, survives_kill_at_every_step

JOBS = '''
from contextlib import nullcontext
from dbsec.journal import Journal, PostgresStore
from dbsec.pg import Conninfo, connect

def _post(folder, observer, *, together):
    """Write two lines of a ledger, each once."""
    with connect(Conninfo.parse((folder / "dsn").read_text())) as connection:
        with PostgresStore(connection, folder.name + (folder / "life").read_text()) as store:
            steps = Journal(store, observer=observer)
            for side in ("debit", "credit"):
                with connection.transaction() if together else nullcontext(), steps.step(side) as step:
                    if not step.done:
                        life = (folder / "life").read_text()
                        connection.execute("INSERT INTO ledger VALUES (%s, %s)", [life, side])

def together(folder, observer):
    _post(folder, observer, together=True)

def apart(folder, observer):
    _post(folder, observer, together=False)
'''


@pytest.fixture
def one(database):
    with connect(database.conninfo) as connection:
        own.install(connection)
        connection.execute("CREATE TABLE ledger (life text, side text, note text)")
        yield connection


@pytest.fixture
def another(one, database):
    with connect(database.conninfo, application_name="other@test") as connection:
        yield connection


def ledger(connection):
    return [side for (side,) in connection.execute("SELECT side FROM ledger ORDER BY 1")]


def post(connection, side="debit"):
    connection.execute("INSERT INTO ledger VALUES ('', %s)", [side])


# --- kills


@pytest.fixture
def lives(one, database, tmp_path):
    """Run a job of JOBS whole, and killed at each edge of each step."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "pg_jobs.py").write_text(JOBS)

    def prepare(folder: Path) -> None:
        files.write_atomic(folder / "dsn", database.conninfo.text())
        files.write_atomic(folder / "life", secrets.token_hex(4))

    def check(folder: Path) -> None:
        life = (folder / "life").read_text()
        rows = one.execute("SELECT side FROM ledger WHERE life = %s ORDER BY 1", [life]).fetchall()
        assert rows == [("credit",), ("debit",)]

    def lives(function, **limits):
        job = Job(f"pg_jobs:{function}", prepare=prepare, search=[modules])
        return survives_kill_at_every_step(job, scratch=tmp_path, check=check, **limits)

    return lives


def test_a_step_in_the_transaction_of_its_effect_is_exactly_once(lives):
    assert lives("together") == [(side, edge) for side in ("debit", "credit") for edge in Edge]


def test_a_step_apart_from_its_effect_is_not(lives):
    with pytest.raises(AssertionError):
        lives("apart", steps=["debit"])


# --- rollback


@pytest.mark.pg(15, 17, 18)
def test_a_rollback_is_noticed(one):
    with PostgresStore(one, "copy") as store:
        steps = Journal(store)
        assert isinstance(store, Transactional)
        steps.run("ready", lambda: 1)
        with one.transaction(force_rollback=True):
            steps.run("debit", lambda: post(one))
            assert steps.done() == ["ready", "debit"]
        assert steps.done() == ["ready"]
        with one.transaction(), steps.step("debit") as step:
            assert (step.done, step.interrupted) == (False, False)
            post(one)
        assert (steps.done(), ledger(one)) == (["ready", "debit"], ["debit"])
    with PostgresStore(one, "copy") as store:
        assert Journal(store).done() == ["ready", "debit"]


def test_an_error_of_the_server_is_not_hidden_by_the_record_of_it(one):
    with PostgresStore(one, "copy") as store:
        steps = Journal(store)
        with pytest.raises(psycopg.errors.DivisionByZero), one.transaction(), steps.step("debit"):
            one.execute("SELECT 1/0")
        with one.transaction(), steps.step("debit") as step:
            assert (step.done, step.interrupted) == (False, False)
            post(one)
        assert ledger(one) == ["debit"]


def test_a_lost_connection_is_not_hidden_by_the_record_of_it(one, another):
    store = PostgresStore(another, "copy")
    steps = Journal(store)
    with pytest.raises(psycopg.errors.AdminShutdown), steps.step("debit"):
        another.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(JournalError, match="cannot read the journal of job 'copy'"), steps.step("debit"):
        pytest.fail("ran on a lost connection")
    with PostgresStore(one, "copy") as resumed, Journal(resumed).step("debit") as step:
        assert step.interrupted


def test_a_savepoint_takes_only_its_own_steps(one):
    with PostgresStore(one, "copy") as store:
        steps = Journal(store)
        with one.transaction(), steps.step("outer") as outer:
            with one.transaction(force_rollback=True):
                steps.run("inner", lambda: post(one, "inner"))
            assert steps.done() == []
            outer.result = steps.run("inner", lambda: post(one, "again"))
        assert steps.done() == ["inner", "outer"]
    with PostgresStore(one, "copy") as store:
        assert Journal(store).done() == ["inner", "outer"]
    assert ledger(one) == ["again"]


def test_an_end_without_its_beginning_is_refused(one):
    with PostgresStore(one, "copy") as store:
        steps = Journal(store)
        gone = "in which step 'debit' of job 'copy' began was rolled back"
        one.execute("BEGIN")
        with pytest.raises(JournalError, match=gone), steps.step("debit"):
            one.execute("ROLLBACK")
        assert steps.done() == []
        one.execute("BEGIN")
        with pytest.raises(psycopg.errors.DivisionByZero), steps.step("debit"):
            one.execute("ROLLBACK; SELECT 1/0")
        assert steps.done() == []


def test_a_step_in_a_failed_transaction_is_refused(one):
    with PostgresStore(one, "copy") as store:
        steps = Journal(store)
        refused = pytest.raises(JournalError, match="cannot write the journal")
        with refused, one.transaction(), steps.step("debit"), suppress(psycopg.errors.DivisionByZero):
            one.execute("SELECT 1/0")
        assert steps.done() == []


def test_without_autocommit_no_transaction_is_left_open(database, one):
    with connect(database.conninfo, autocommit=False) as session, PostgresStore(session, "copy") as store:
        steps = Journal(store)
        assert session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        steps.run("debit", lambda: post(session))
        session.rollback()
        assert (steps.done(), ledger(one)) == ([], [])
        steps.run("debit", lambda: post(session))
        session.commit()
        assert (steps.done(), ledger(one)) == (["debit"], ["debit"])


# --- one holder


@pytest.mark.pg(15, 17, 18)
def test_a_second_holder_is_refused_by_name_and_the_lock_dies_with_its_holder(one, another):
    held = PostgresStore(another, "copy")
    Journal(held).run("a", lambda: 1)
    wanted = rf"another session runs job 'copy': pid {another.info.backend_pid} \('other@test' as 'postgres'\)"
    with pytest.raises(JournalError, match=wanted), PostgresStore(one, "copy", patience_s=0):
        pass
    with PostgresStore(one, "another job"):
        assert [(job.name, job.holder != "") for job in jobs(one)] == [("copy", True)]
    another.close()
    with PostgresStore(one, "copy") as store:
        assert Journal(store).done() == ["a"]


def test_a_second_store_on_the_same_connection_is_refused(one):
    with PostgresStore(one, "copy"), pytest.raises(JournalError, match="this connection runs job 'copy' already"):
        Journal(PostgresStore(one, "copy"))
    with PostgresStore(one, "copy") as store:
        Journal(store).run("a", lambda: 1)
    with pytest.raises(JournalError, match="is closed"):
        store.append({"event": "begun", "step": "b", "at": "", "facts": {}})


def test_who_writes_without_the_lock_is_stopped_by_the_table(one, another):
    """As behind a pool in transaction mode, where the lock stays with a server session."""
    store = PostgresStore(one, "copy")
    steps = Journal(store)
    one.execute("SELECT pg_advisory_unlock_all()")
    Journal(PostgresStore(another, "copy")).run("a", lambda: 1)
    with pytest.raises(JournalError, match="in which step 'b' of job 'copy' began was rolled back"), steps.step("b"):
        another.execute("DELETE FROM dbsec.journal")
    assert [r["step"] for r in PostgresStore(one, "other").read()] == []


# --- damage


def test_any_changed_or_missing_row_is_found(one):
    with PostgresStore(one, "copy") as store:
        for name in ("a", "b", "c"):
            Journal(store).run(name, lambda: "zoë \0 é")
    assert all("\\u0000" in text for (text,) in one.execute("SELECT record FROM dbsec.journal WHERE n IN (2, 4, 6)"))
    for damage in (
        "UPDATE dbsec.journal SET record = replace(record, 'zo', 'ZO') WHERE n = 4",
        "UPDATE dbsec.journal SET crc = '00000000' WHERE n = 1",
        "UPDATE dbsec.journal SET record = 'no json' WHERE n = 2",
        "DELETE FROM dbsec.journal WHERE n = 3",
        "UPDATE dbsec.journal SET job = 'other'",
    ):
        with one.transaction(force_rollback=True):
            assert one.execute(damage).rowcount > 0
            job = "other" if "job =" in damage else "copy"
            with pytest.raises(JournalError, match=rf"of job '{job}' is damaged: record \d is not what was written"):
                Journal(PostgresStore(one, job))
    with PostgresStore(one, "copy") as store:
        assert Journal(store).done() == ["a", "b", "c"]


def test_a_newer_format_and_a_schema_that_is_not_there_are_told_apart(one):
    with PostgresStore(one, "copy") as store:
        Journal(store).run("a", lambda: 1)
    one.execute("UPDATE dbsec.journal SET format = 2 WHERE n = 2")
    with pytest.raises(NewerFormat, match="the journal of job 'copy' was written by a newer dbsec"):
        Journal(PostgresStore(one, "copy"))
    own.uninstall(one)
    with pytest.raises(ApplyError, match="is not installed") as absent:
        Journal(PostgresStore(one, "copy"))
    assert absent.value.hint.startswith("dbsec db install")


def test_a_failure_is_recorded_without_the_text_of_others(one):
    with PostgresStore(one, "copy") as store:
        steps = Journal(store)
        with pytest.raises(ValueError, match="hunter2"), steps.step("a"):
            raise ValueError("password=hunter2")
        with pytest.raises(LabError), steps.step("b"):
            raise LabError("port 1 is in use")
    texts = [
        json.loads(text) for (text,) in one.execute("SELECT record FROM dbsec.journal WHERE n IN (2, 4) ORDER BY n")
    ]
    assert [record["error"] for record in texts] == ["ValueError", "port 1 is in use"]
