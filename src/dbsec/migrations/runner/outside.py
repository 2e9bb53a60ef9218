"""What runs outside a transaction: SET, and what PostgreSQL refuses in one."""

from __future__ import annotations

from functools import partial

import psycopg

from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.runner import failures, locking, session, timeouts
from dbsec.migrations.runner.blockers import holding
from dbsec.migrations.runner.classify import Classified, Kind
from dbsec.migrations.runner.invalid import Care
from dbsec.migrations.runner.pursuit import Pursuit
from dbsec.migrations.runner.turn import Ran, Run

# a database, an object (a tablespace, a subscription, a slot), a relation
_THERE = frozenset({"42P04", "42710", "42P07"})
_GONE = frozenset({"3D000", "42704", "42P01"})


def plain(run: Run) -> Ran:
    """Run a statement for the session as it stands there."""
    run.at = one = run.parts[0]
    began = run.clock.monotonic()
    try:
        with run.around():
            run.connection.execute(one.statement.text.encode(), prepare=False)
    except psycopg.Error as exc:
        run.ended(exc)
        raise failures.failed(exc, one.place) from None
    return Ran(run.clock.monotonic() - began)


def alone(run: Run, *, again: bool) -> Ran:
    """Run a statement that PostgreSQL refuses in a transaction."""
    run.at = one = run.parts[0]
    run.body = [one]
    run.allowed()
    care = Care(run.connection, one, again, partial(_until_free, run))
    pursuit = run.pursuit()
    settings = timeouts.of(one, run.limits).settings(run.major)
    run.committing = True
    try:
        with session.holding(run.connection, settings):
            care.before()
            with run.around():
                ran = Ran(0.0, already=True, turns=0) if care.already else _outside(run, one, care, pursuit, again)
                care.after()
    except psycopg.Error as exc:
        run.ended(exc)
        raise failures.failed(exc, one.place) from None
    return ran


def _outside(run: Run, one: Classified, care: Care, pursuit: Pursuit, again: bool) -> Ran:
    text, tries = (care.instead or one.statement.text).encode(), 0
    while True:
        while one.kind is not Kind.CONCURRENT and not pursuit.clear(all_of_them=True):
            pursuit.refused()
        run.turns += 1
        waited, began = pursuit.waited_s, run.clock.monotonic()
        try:
            run.connection.execute(text, prepare=False)
        except psycopg.Error as exc:
            run.ended(exc)
            left = care.failed()
            tries += 1
            commits = one.statement.kind in ("DoStmt", "CallStmt")  # a part of it is there already
            if commits or not locking.is_refusal(exc) or tries > run.limits.retries:
                hint = left or (_begun_before(exc) if again else "")
                raise failures.failed(exc, one.place, hint=hint) from None
            pursuit.refused(pause_s=run.pause_s(tries))
            continue
        seconds = run.clock.monotonic() - began
        return Ran(seconds, waited, run.turns, run.turns, seconds, tuple(pursuit.cancelled), tuple(care.repaired))


def _begun_before(exc: psycopg.Error) -> str:
    """Say what to do after a killed run that began a statement, which may have come to its end since."""
    state = exc.sqlstate or ""
    if state in _THERE:
        return "an earlier run began it: if it is as asked for, take the statement out of the file, or DROP it; resume"
    if state in _GONE:
        return "an earlier run began it, and it is gone: take the statement out of the file; resume"
    return ""


def _until_free(run: Run, table: int) -> None:
    """Wait until nobody else builds or drops an index on a table; PostgreSQL itself ends an autovacuum."""
    wanted = [(table, LockMode.SHARE_UPDATE_EXCLUSIVE)]
    began = told = run.clock.monotonic()
    while found := [one for one in holding(run.connection, wanted) if not one.autovacuum and one.granted]:
        now = run.clock.monotonic()
        if now - began >= run.limits.give_up_s:
            raise failures.not_taken(f"'{run.place}': its table", now - began, found)
        if run.told is not None and now - told >= 1:
            told = now
            run.told(found)
        run.clock.sleep(run.limits.poll_ms / 1000 * 5)
