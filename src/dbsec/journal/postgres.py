"""Records as rows of table ``dbsec.journal``, written in the caller's transaction."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, LiteralString

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from dbsec import canonical
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import GaveUp, JournalError, NewerFormat, reason
from dbsec.journal.acting import Identity, acting
from dbsec.journal.steps import Record
from dbsec.pg import advisory, own
from dbsec.retry import wait_until

FORMAT = 1
_READ: LiteralString = "SELECT n, format, record, crc FROM dbsec.journal WHERE job = %s ORDER BY n"
_COUNT: LiteralString = "SELECT coalesce(pg_catalog.max(n), 0) FROM dbsec.journal WHERE job = %s"
_LAST: LiteralString = "SELECT DISTINCT ON (job) job, n, record FROM dbsec.journal ORDER BY job, n DESC"
# Only the one that follows: where a rollback took records away, this adds none.
_APPEND: LiteralString = """
INSERT INTO dbsec.journal (job, n, format, record, crc) SELECT %(job)s, %(n)s, %(format)s, %(record)s, %(crc)s
 WHERE (SELECT coalesce(pg_catalog.max(n), 0) FROM dbsec.journal WHERE job = %(job)s) = %(n)s - 1
"""
_RIGHTS = "dbsec db install --dsn REF --user ROLE --apply, for the role that runs it; then again: it resumes"


class PostgresStore:
    """Records of one job in ``dbsec.journal``; one holder at a time.

    ``append`` is part of the caller's transaction: what is rolled back was never recorded, and ``Journal`` notices. A
    step inside ``with connection.transaction()`` is there with its effect or not at all; a step around it may be
    interrupted between the two, as with a file. All is read and written as the role that opened it,
    whatever role a step SETs.

    Shape: (job, n, format, record, crc); record is canonical JSON in ASCII; crc is CRC-32 over job, n and record, 8 hex
    digits. Locks: an advisory lock of the session from the first read to ``close`` or the end of the connection, which
    therefore is a session of its own (no pool in transaction mode); ``patience_s`` is for a killed holder's backend to
    end. Errors: ``JournalError`` naming who holds the job, ``NewerFormat``, those of ``own.require``.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], job: str, *, patience_s: float = 1.0, clock: Clock = SYSTEM
    ) -> None:
        self._connection = connection
        self._job = job
        self._patience_s = patience_s
        self._clock = clock
        self._key = advisory.key("journal", job)
        self._records: list[Record] = []
        self._held = False
        self._lost = 0
        self._opener: Identity | None = None

    def __enter__(self) -> PostgresStore:
        self._hold()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let others have the job. In a transaction that failed, or on a lost connection, its end lets it go."""
        if self._held and not self._is_lost_cause():
            with self._briefly():
                self._connection.execute("SELECT pg_catalog.pg_advisory_unlock(%s)", [self._key])
        self._held = False

    def read(self) -> list[Record]:
        self._hold()
        return list(self._records)

    def lost(self) -> int:
        """Look whether records were rolled back since, and return how often that was so."""
        with self._refused("read"), self._briefly(), self._as_opener():
            row = self._connection.execute(_COUNT, [self._job]).fetchone()
            if row is None or row[0] != len(self._records):
                self._reload()
        return self._lost

    def append(self, record: Record) -> None:
        """Add a record to the caller's transaction; it is durable with it, or at once where there is none."""
        if record["event"] == "failed" and self._is_lost_cause():
            return  # it would go with the transaction, as 'begun' does
        if not self._held:
            raise JournalError(f"the journal of job '{self._job}' is closed", hint="open it again")
        with self._refused("write"), self._as_opener():
            if not self._added(record):
                self._reload()
                if self._may_follow(record):
                    self._added(record)

    def forget(self) -> None:
        """Delete the job's records in the caller's transaction: the job has ended, and may be run anew."""
        with self._refused("write"), self._as_opener():
            self._connection.execute("DELETE FROM dbsec.journal WHERE job = %s", [self._job])
            self._reload()

    def _added(self, record: Record) -> bool:
        n = len(self._records) + 1
        text = json.dumps(dict(record), sort_keys=True, separators=(",", ":"), allow_nan=False)
        row = {"job": self._job, "n": n, "format": FORMAT, "record": text, "crc": self._crc(n, record)}
        if self._connection.execute(_APPEND, row).rowcount != 1:
            return False
        self._records.append(record)
        return True

    def _may_follow(self, record: Record) -> bool:
        """Refuse the end of a step whose beginning is gone: its effect may be, too. A failure says so itself."""
        last = next((r for r in reversed(self._records) if r["step"] == record["step"]), None)
        if record["event"] == "begun" or (last is not None and last["event"] == "begun"):
            return True
        if record["event"] == "failed":
            return False
        raise JournalError(
            f"the transaction in which step '{record['step']}' of job '{self._job}' began was rolled back",
            hint="end the step before its transaction ends",
        )

    def _hold(self) -> None:
        if self._held:
            return
        with self._refused("open"), self._briefly():
            own.require(self._connection, 1)
            self._opener = Identity.of(self._connection)
            pid = self._connection.info.backend_pid
            if any(one.pid == pid for one in advisory.holders(self._connection, self._key)):
                raise JournalError(f"this connection runs job '{self._job}' already", hint="close the other journal")
            self._take()
            self._held = True
            try:
                self._reload()
            except BaseException:
                self.close()
                raise
            self._lost = 0

    def _take(self) -> None:
        what = f"job '{self._job}'"
        try:
            wait_until(self._try, within_s=self._patience_s, what=what, every_s=0.05, clock=self._clock)
        except GaveUp as exc:
            who = ", ".join(map(str, advisory.holders(self._connection, self._key))) or "a session that just ended"
            hint = "wait for it to end; where it is dead: SELECT pg_terminate_backend(pid)"
            raise JournalError(f"another session runs {what}: {who}", hint=hint) from exc

    def _try(self) -> bool:
        row = self._connection.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", [self._key]).fetchone()
        return bool(row and row[0])

    def _reload(self) -> None:
        rows = self._connection.execute(_READ, [self._job]).fetchall()
        self._records = [self._parsed(number, *row) for number, row in enumerate(rows, 1)]
        self._lost += 1

    def _parsed(self, number: int, n: int, written: int, text: str, crc: str) -> Record:
        if written > FORMAT:
            raise NewerFormat(f"the journal of job '{self._job}'", found=written, known=FORMAT)
        record = _object(text)
        if n != number or crc != self._crc(n, record):
            raise JournalError(
                f"the journal of job '{self._job}' is damaged: record {number} is not what was written",
                hint="see in dbsec.journal what was done before it, then delete the job's rows there",
            )
        return record

    def _crc(self, n: int, record: Record) -> str:
        return f"{zlib.crc32(canonical.json_bytes([self._job, n, dict(record)])):08x}"

    def _is_lost_cause(self) -> bool:
        status = self._connection.info.transaction_status
        return status in (TransactionStatus.INERROR, TransactionStatus.UNKNOWN)

    def _briefly(self) -> AbstractContextManager[object]:
        """Leave no transaction open that the caller did not open."""
        idle = self._connection.info.transaction_status is TransactionStatus.IDLE
        return self._connection.transaction() if idle and not self._connection.autocommit else nullcontext()

    def _as_opener(self) -> AbstractContextManager[object]:
        return acting(self._connection, self._opener) if self._opener is not None else nullcontext()

    @contextmanager
    def _refused(self, what: str) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as exc:
            hint = _RIGHTS if isinstance(exc, errors.InsufficientPrivilege) else "run it again: it resumes"
            raise JournalError(f"cannot {what} the journal of job '{self._job}': {reason(exc)}", hint=hint) from exc


def forget(connection: psycopg.Connection[Any], names: Sequence[str]) -> None:
    """Delete the records of jobs in the caller's transaction; nobody may be running them."""
    connection.execute("DELETE FROM dbsec.journal WHERE job = ANY (%s)", [list(names)])


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as its records tell: its last step and how that stands. ``holder`` is empty where nobody runs it."""

    name: str
    records: int
    step: str
    event: str
    holder: str


def jobs(connection: psycopg.Connection[Any]) -> list[JobState]:
    """List the jobs that have a journal in this database. Needs rights on schema dbsec."""
    held = {one.key: str(one) for one in advisory.holders(connection)}
    found = []
    for name, n, text in connection.execute(_LAST):
        last = _object(text)
        holder = held.get(advisory.key("journal", name), "")
        found.append(JobState(name, n, last.get("step", ""), last.get("event", ""), holder))
    return found


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
