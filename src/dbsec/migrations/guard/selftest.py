"""Prove on the live server that each guard refuses what it must, and that work that lets others work still passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from dbsec.errors import ApplyError, GaveUp, reason
from dbsec.evidence.model import Outcome
from dbsec.migrations.guard import live
from dbsec.migrations.guard.planning import made
from dbsec.migrations.guard.policy import GUARDS
from dbsec.migrations.guard.proofs import GIVEN, VETOES, WORKS, Given, Veto, Works
from dbsec.migrations.guard.rows import SCRATCH

_LOCK = 0x6462736563_6774  # an advisory lock: one selftest at a time
_MARK = "the scratch schema of dbsec migrate guard selftest"
_CODES = {guard.name: guard.sqlstate for guard in GUARDS}
# someone is in the way, or the server ends the session: nothing is known of the guard
_UNSURE = {"55P03", "57014", "40P01", "25P04", "57P01", "53300", "53200"}
_SETTINGS: LiteralString = """
SELECT pg_catalog.set_config('search_path', '', false), pg_catalog.set_config('statement_timeout', '60s', false),
       pg_catalog.set_config('client_min_messages', 'warning', false)
"""
_WHOSE: LiteralString = """
SELECT coalesce(pg_catalog.obj_description(pg_catalog.to_regnamespace(%s)::oid, 'pg_namespace'), '')
 WHERE pg_catalog.to_regnamespace(%s) IS NOT NULL
"""
_OVERRIDE: LiteralString = """
SELECT id FROM dbsec_guard.overrides
 WHERE guard = %s AND role_name = session_user AND ended_at IS NULL AND until > pg_catalog.clock_timestamp()
"""
_MAKE: LiteralString = """
CREATE SCHEMA dbsec_guard_selftest;
COMMENT ON SCHEMA dbsec_guard_selftest IS 'the scratch schema of dbsec migrate guard selftest';
CREATE TABLE dbsec_guard_selftest.big (id int PRIMARY KEY);
INSERT INTO dbsec_guard_selftest.big SELECT pg_catalog.generate_series(1, 500);
ALTER TABLE dbsec_guard_selftest.big ADD CONSTRAINT positive CHECK (id OPERATOR(pg_catalog.>) 0) NOT VALID
"""
_DROP: LiteralString = "DROP SCHEMA dbsec_guard_selftest CASCADE"


@dataclass(frozen=True, slots=True)
class Proof:
    """What one attempt proved of a guard; ``reason`` says what was seen."""

    name: str
    outcome: Outcome
    reason: str


class _Seen(Exception):
    """Ends the transaction of an attempt, whatever it did."""


def selftest(connection: psycopg.Connection[Any], *, told: Callable[[Proof], None] = lambda _: None) -> list[Proof]:
    """Try everything on a scratch table, and return what was seen; nothing stays behind.

    ``connection`` is in autocommit, as whoever installed; the session's settings are changed. What a killed run has
    left is removed first. Locks: those of the scratch table; CONCURRENTLY waits for older transactions, up to 60 s.
    Errors: ``ApplyError`` where no guard is installed or the scratch schema is somebody's, ``GaveUp`` where another
    selftest runs.
    """
    there = live.read(connection)
    if not there.here:
        raise ApplyError("no guard is installed in this database", hint="dbsec migrate guard install --dsn ... --apply")
    proofs: list[Proof] = []

    def tell(proof: Proof) -> None:
        proofs.append(proof)
        told(proof)

    with _scratch(connection):
        differs = made(there)
        tell(
            Proof("it is installed as this dbsec writes it", Outcome.FAIL, "; ".join(map(str, differs[:5])))
            if differs
            else Proof("it is installed as this dbsec writes it", Outcome.PASS, f"{len(there.triggers)} event triggers")
        )
        rows = live.rows_of(connection, "guards", ("name", "mode")) if "guards" in there.tables else set()
        modes = {str(name): str(mode) for name, mode in rows}
        for proof in _all(connection, modes):
            tell(proof)
    return proofs


def _all(connection: psycopg.Connection[Any], modes: dict[str, str]) -> Iterator[Proof]:
    for attempt in (*VETOES, *GIVEN):
        yield Proof(attempt.name, *_try(connection, attempt, modes.get(attempt.guard)))
    for work in WORKS:
        yield Proof(f"{work.name} works", *_works(connection, work))


def _try(connection: psycopg.Connection[Any], attempt: Veto | Given, mode: str | None) -> tuple[Outcome, str]:
    """Try in a transaction that is rolled back, unless it does not apply here."""
    major = connection.info.server_version // 10000
    if major < attempt.since:
        return Outcome.SKIP, f"PostgreSQL {major} has not what it needs: {attempt.since} is the first"
    if mode == "off":
        return Outcome.SKIP, f"the policy has guard '{attempt.guard}' off"
    if (open_override := connection.execute(_OVERRIDE, [attempt.guard]).fetchone()) is not None:
        return Outcome.SKIP, f"override {open_override[0]} of guard '{attempt.guard}' is open"
    warned: list[str | None] = []
    hear = lambda said: warned.append(said.sqlstate)  # noqa: E731
    connection.add_notice_handler(hear)
    try:
        saw = _attempt(connection, attempt)
    finally:
        connection.remove_notice_handler(hear)
    if mode == "observe":
        code = _CODES[attempt.guard]
        heard = code in warned or (isinstance(attempt, Given) and bool(warned))
        quiet = Outcome.FAIL, f"guard '{attempt.guard}' observes, and did not warn: {saw[1]}"
        return (Outcome.SKIP, f"guard '{attempt.guard}' observes: it warned, and let pass") if heard else quiet
    return saw


def _attempt(connection: psycopg.Connection[Any], attempt: Veto | Given) -> tuple[Outcome, str]:
    saw: tuple[Outcome, str] = (Outcome.ERROR, "it was not tried")
    try:
        with connection.transaction():
            for statement in attempt.before:
                connection.execute(statement)
            saw = _veto(connection, attempt) if isinstance(attempt, Veto) else _given(connection, attempt)
            raise _Seen
    except _Seen:
        return saw
    except psycopg.Error as exc:
        return _failed(connection, exc)


def _veto(connection: psycopg.Connection[Any], veto: Veto) -> tuple[Outcome, str]:
    wanted = _CODES[veto.guard]
    try:
        with connection.transaction():
            connection.execute(veto.attempt)
    except psycopg.Error as exc:
        if exc.sqlstate == wanted and veto.says in str(exc):
            return Outcome.PASS, f"refused with {wanted}"
        return _failed(connection, exc)
    return Outcome.FAIL, f"it went through: {veto.attempt}"


def _given(connection: psycopg.Connection[Any], given: Given) -> tuple[Outcome, str]:
    if given.own and _true(connection, given.own):
        return Outcome.SKIP, "the server or this login has it set, so that nothing is left to give"
    connection.execute(given.act)
    if _true(connection, given.sees):
        return Outcome.PASS, "it held after the command"
    return Outcome.FAIL, f"it did not hold after: {given.act}"


def _works(connection: psycopg.Connection[Any], work: Works) -> tuple[Outcome, str]:
    try:
        connection.execute(work.attempt)
    except psycopg.Error as exc:
        return _failed(connection, exc)
    if _true(connection, work.sees):
        return Outcome.PASS, "it went through"
    return Outcome.FAIL, f"it left half of it behind: {work.attempt}"


def _failed(connection: psycopg.Connection[Any], exc: psycopg.Error) -> tuple[Outcome, str]:
    """Judge another refusal than the one that was waited for."""
    if connection.closed:
        raise exc
    told = f"{exc.sqlstate} {reason(exc)}"
    if exc.sqlstate in _UNSURE:
        return Outcome.ERROR, f"somebody else was in the way: {told}"
    if exc.sqlstate == "42501":
        return Outcome.SKIP, f"who runs this may not try it: {told}"
    return Outcome.FAIL, f"PostgreSQL refused otherwise: {told}"


def _true(connection: psycopg.Connection[Any], query: LiteralString) -> bool:
    row = connection.execute(query).fetchone()
    return bool(row and row[0])


@contextmanager
def _scratch(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Make the scratch schema anew, and remove it in the end."""
    row = connection.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", [_LOCK]).fetchone()
    if not (row and row[0]):
        raise GaveUp("another selftest of the guard runs in this database")
    connection.execute(_SETTINGS)
    _remove(connection)
    try:
        connection.execute(_MAKE)
        yield
    finally:
        if not connection.closed:
            _remove(connection)
            connection.execute("SELECT pg_catalog.pg_advisory_unlock(%s)", [_LOCK])


def _remove(connection: psycopg.Connection[Any]) -> None:
    """Drop the scratch schema where it is ours."""
    row = connection.execute(_WHOSE, [SCRATCH, SCRATCH]).fetchone()
    if row is None:
        return
    if row[0] != _MARK:
        raise ApplyError(f"schema '{SCRATCH}' is not the selftest's", hint=f"ALTER SCHEMA {SCRATCH} RENAME TO ...")
    connection.execute(_DROP)
