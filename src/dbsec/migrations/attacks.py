"""What a hurried change does to a live table: by hand past every review, in a file, and behind a forgotten reader."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import errors

from dbsec.clock import SYSTEM
from dbsec.errors import DbsecError
from dbsec.evidence import Observation, Outcome
from dbsec.pg import connect
from dbsec.retry import retry

if TYPE_CHECKING:
    from dbsec.migrations.drill import MigrationTarget

TWIN = "app.dbsec_drill_twin"
_NAME = "dbsec drill"
_READER = "dbsec drill reader"
_ROWS = 30_000
_HELD_S = 2.0
_STALLED_S = 0.25
_READERS = 4

# What a careful session says of itself, so that only the guard in question has a reason to refuse.
_SESSION: LiteralString = "SET lock_timeout = '200ms'; SET statement_timeout = '30s'"
_MAKE: LiteralString = """
DROP TABLE IF EXISTS app.dbsec_drill_twin;
CREATE TABLE app.dbsec_drill_twin AS
SELECT n AS id, '+88' || lpad(n::text, 9, '0') AS phone, repeat('x', 100) AS rest
  FROM generate_series(1, 30000) AS n;
GRANT SELECT ON app.dbsec_drill_twin TO PUBLIC;
"""
_WIDEN = f"""-- dbsec: phase contract
SET lock_timeout = '500ms';
SET statement_timeout = '5s';
ALTER TABLE {TWIN} ALTER COLUMN id TYPE bigint;
"""
_ADD = f"""-- dbsec: phase expand
SET lock_timeout = '10s';
SET statement_timeout = '15s';
ALTER TABLE {TWIN} ADD COLUMN note text;
"""
_UNMAKE: LiteralString = "DROP TABLE IF EXISTS app.dbsec_drill_twin"
_FILENODE: LiteralString = "SELECT pg_catalog.pg_relation_filenode('app.dbsec_drill_twin')"
_STALLED: LiteralString = """
SELECT count(*) FROM pg_catalog.pg_stat_activity
 WHERE application_name = %s AND wait_event_type = 'Lock'
   AND clock_timestamp() - query_start > %s * interval '1 second'
"""


@dataclass(frozen=True, slots=True)
class Slip:
    """One statement by hand. ``refusal``: the SQLSTATE of the guard; ``done``: what to say where the server obeys."""

    statement: LiteralString
    refusal: str
    done: str


REWRITE = Slip(
    "ALTER TABLE app.dbsec_drill_twin ALTER COLUMN id TYPE bigint", "DBG01", "every row was written again under a lock"
)
REWRITE_IN_DO = Slip(
    "DO $$BEGIN EXECUTE 'ALTER TABLE app.dbsec_drill_twin ALTER COLUMN id TYPE bigint'; END$$",
    "DBG01",
    "every row was written again under a lock, where no linter looks",
)
INDEX = Slip("CREATE INDEX ON app.dbsec_drill_twin (phone)", "DBG02", "the index was built while writers waited")
INDEX_IN_DO = Slip(
    "DO $$BEGIN EXECUTE 'CREATE INDEX ON app.dbsec_drill_twin (phone)'; END$$",
    "DBG02",
    "the index was built while writers waited, where no linter looks",
)
DROP = Slip("DROP TABLE app.orders CASCADE", "DBG03", "the orders were gone")
DEFINER = Slip(
    "CREATE FUNCTION app.dbsec_drill_peek() RETURNS bigint LANGUAGE sql SECURITY DEFINER"
    " AS 'SELECT count(*) FROM app.users'",
    "DBG04",
    "made a function that acts for its owner in whatever schema its caller names",
)


def by_hand(target: MigrationTarget, slip: Slip) -> Observation:
    """Let the migrator run one statement in a transaction that is rolled back; PASS where the guard's code answers."""
    with _twin(target), connect(target.migrator(), application_name=_NAME) as session:

        def once() -> Observation:
            session.execute(_SESSION)
            try:
                with session.transaction(force_rollback=True):
                    session.execute(slip.statement)
            except psycopg.Error as exc:
                if exc.sqlstate != slip.refusal:
                    raise
                said = exc.diag.message_primary or ""
                seen = {"sqlstate": exc.sqlstate, "message": said, "hint": exc.diag.message_hint or ""}
                return Observation(Outcome.PASS, f"refused by {exc.sqlstate}: {said}", seen)
            return Observation(Outcome.FAIL, f"{slip.done} (rolled back by the drill)", {"statement": slip.statement})

        return retry(once, on=(errors.LockNotAvailable,), within_s=15.0, what="a statement by hand")


def dangerous_file(target: MigrationTarget) -> Observation:
    """Deploy a file that rewrites the twin; PASS where it is refused and the files of the table are the same."""
    with _twin(target) as admin:
        before = _one(admin, _FILENODE)
        try:
            target.deploy("contract_widen_id.sql", _WIDEN)
        except DbsecError as exc:
            said = exc.message.removeprefix("dbsec: ").splitlines()[0]
            refused = {"refused": exc.message, "rewritten": _one(admin, _FILENODE) != before}
            passed = not refused["rewritten"] and "MIG201" in said
            return Observation(Outcome.PASS if passed else Outcome.ERROR, f"refused: {said}", refused)
        rewritten = _one(admin, _FILENODE) != before
        facts = {"rewritten": rewritten, "rows": _ROWS}
        return Observation(Outcome.FAIL, f"deployed: {_ROWS:,} rows were written again under ACCESS EXCLUSIVE", facts)


def queue(target: MigrationTarget) -> Observation:
    """Deploy a column while a reader holds the twin for 2 s; PASS where no other reader ever waited 250 ms for it."""
    with _twin(target) as admin, _readers(target) as reads:
        with connect(target.reader(), autocommit=False, application_name="dbsec drill report") as report:
            report.execute("SELECT count(*) FROM app.dbsec_drill_twin")
            failed: list[BaseException] = []
            deploying = threading.Thread(target=_deploy, args=(target, failed))
            deploying.start()
            until = SYSTEM.monotonic() + _HELD_S
            worst = 0
            while SYSTEM.monotonic() < until:
                worst = max(worst, int(_one(admin, _STALLED, _READER, _STALLED_S)))
                SYSTEM.sleep(0.02)
            report.rollback()
        deploying.join()
        if failed:
            raise failed[0]
        added = _one(
            admin,
            "SELECT count(*) FROM pg_catalog.pg_attribute WHERE attrelid = %s::regclass AND attname = 'note'",
            TWIN,
        )
    facts = {"readers": _READERS, "stalled_at_once": worst, "reads": sum(reads), "column_added": bool(added)}
    if not added:
        return Observation(Outcome.ERROR, "the column was not added: nothing is proven", facts)
    if worst:
        return Observation(Outcome.FAIL, f"{worst} of {_READERS} readers stood behind the migration", facts)
    return Observation(Outcome.PASS, f"the column came after the report; none of {_READERS} readers waited", facts)


def _deploy(target: MigrationTarget, failed: list[BaseException]) -> None:
    try:
        target.deploy("expand_add_note.sql", _ADD)
    except BaseException as exc:  # noqa: BLE001 - raised again by the thread that waits
        failed.append(exc)


@contextmanager
def _readers(target: MigrationTarget) -> Iterator[list[int]]:
    """Read rows of the twin all the time; yields how often each reader did."""
    done, reads = threading.Event(), [0] * _READERS

    def read(number: int) -> None:
        with connect(target.reader(), application_name=_READER) as session:
            while not done.wait(0.005):
                # a service that does not wait for ever fails instead: it stood behind the migration all the same
                with suppress(errors.LockNotAvailable):
                    session.execute("SELECT phone FROM app.dbsec_drill_twin LIMIT 1")
                    reads[number] += 1

    threads = [threading.Thread(target=read, args=(number,)) for number in range(_READERS)]
    for thread in threads:
        thread.start()
    try:
        yield reads
    finally:
        done.set()
        for thread in threads:
            thread.join()


@contextmanager
def _twin(target: MigrationTarget) -> Iterator[psycopg.Connection[Any]]:
    """Make the twin as the migrator, whose it is then, and lend the superuser's session."""
    with connect(target.admin(), application_name=_NAME) as admin:
        _as_migrator(target, _MAKE)
        try:
            yield admin
        finally:
            _as_migrator(target, _UNMAKE)


def _as_migrator(target: MigrationTarget, statements: LiteralString) -> None:
    with connect(target.migrator(), application_name=_NAME) as session:
        session.execute("SET lock_timeout = '5s'; SET statement_timeout = '60s'")
        session.execute(statements)


def _one(session: psycopg.Connection[Any], query: LiteralString, *params: object) -> Any:
    row = session.execute(query, params).fetchone()
    return row[0] if row else None
