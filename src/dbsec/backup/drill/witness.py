"""The witness: what the database held at one named restore point, exactly, taken while it goes on serving."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString

import psycopg
from psycopg import errors, sql

from dbsec.backup.drill.content import Content, Table, contents, sequences, tables
from dbsec.backup.errors import BackupError
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import GaveUp
from dbsec.pg import Conninfo, connect
from dbsec.pg.lsn import Lsn
from dbsec.progress import Progress, Silent
from dbsec.retry import retry

_CONTENDED: Final = (errors.LockNotAvailable, errors.DeadlockDetected)
_SELF: LiteralString = """
SELECT (SELECT rolname FROM pg_roles WHERE oid = 10), current_database(), current_setting('server_version'),
       pg_is_in_recovery(), (SELECT system_identifier FROM pg_control_system())
"""
_RESTORE_POINT: LiteralString = "SELECT pg_create_restore_point(%s)::text, clock_timestamp()"
_TIMELINE: LiteralString = "SELECT substr(pg_walfile_name(%s::pg_lsn), 1, 8)"
RIGHTS: Final = (
    "GRANT pg_read_all_data, pg_maintain TO ROLE (before 17: GRANT UPDATE on the tables); "
    "GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO ROLE; ALTER ROLE ROLE BYPASSRLS"
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How the locks are asked for: writers queue behind a request, so each is short and there are several.

    ``lock_timeout`` stays above PostgreSQL's deadlock_timeout (1 s), at which an autovacuum in the way gives up.
    """

    lock_timeout: timedelta = timedelta(seconds=1.5)
    within: timedelta = timedelta(seconds=60)
    pause: timedelta = timedelta(milliseconds=500)


@dataclass(frozen=True, slots=True)
class Witness:
    """What must be found on a clone that stands at ``name``.

    ``at`` is the server's clock while the locks were held: whatever these tables had until then is in, and nothing that
    was committed later. ``lsn`` is the end of the restore point. ``held`` is how long the locks of the attempt that
    succeeded could make a writer wait, its own waiting included. ``superuser`` is the clone's first role.
    ``created`` is ``clock.monotonic()`` when the point was there.
    """

    name: str
    lsn: Lsn
    timeline: int
    at: datetime
    system: int
    database: str
    superuser: str
    server_version: str
    tables: dict[str, Content]
    sequences: dict[str, int]
    unlogged: tuple[str, ...]
    attempts: int
    held: timedelta
    hashed: timedelta
    created: float

    @property
    def rows(self) -> int:
        return sum(content.rows for content in self.tables.values())

    @property
    def text_bytes(self) -> int:
        return sum(content.text_bytes for content in self.tables.values())


def take_witness(
    server: Conninfo,
    *,
    wanted: Sequence[str] = (),
    patience: Patience | None = None,
    progress: Progress | None = None,
    clock: Clock = SYSTEM,
) -> Witness:
    """Make a restore point at which the chosen tables stand still, and hash what they hold there.

    Under SHARE locks no transaction that wrote to these tables is open, so a snapshot taken then, and the restore point
    in the WAL, mean the same rows. The locks go with a savepoint; the snapshot stays with the transaction, in which
    every row is counted and hashed. **locks**: ACCESS SHARE to the end (TRUNCATE and what rewrites a table are not
    seen by a snapshot and must wait), SHARE for some milliseconds. **rights**: ``RIGHTS``; a role that only reads may
    not lock. The database is the connection's: one witness for one database. Large objects are no part of it.

    Errors: ``GaveUp`` where the locks cannot be had; ``BackupError`` on a standby; ``psycopg.Error`` without rights.
    Source: PostgreSQL, "Explicit Locking", "LOCK", "SET TRANSACTION".
    """
    patience, progress = patience or Patience(), progress or Silent()
    with connect(server, autocommit=False) as session:
        session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return _Taking(session, wanted, patience, progress, clock).run()


class _Taking:
    def __init__(
        self,
        session: psycopg.Connection[Any],
        wanted: Sequence[str],
        patience: Patience,
        progress: Progress,
        clock: Clock,
    ) -> None:
        self._session = session
        self._wanted = wanted
        self._patience = patience
        self._progress = progress
        self._clock = clock
        self._attempts = 0
        self._held = 0.0

    def run(self) -> Witness:
        superuser, database, version, standby, system = self._session.execute(_SELF).fetchone() or ("",) * 5
        if standby:
            raise BackupError(
                "a witness is taken on the primary, and this server is a standby", hint="--dsn env:PRIMARY"
            )
        chosen, unlogged = tables(self._session, self._wanted)
        numbers = sequences(self._session)
        self._session.commit()
        name = f"dbsec-{secrets.token_hex(6)}"
        lsn, at = self._locked(name, chosen)
        created = self._clock.monotonic()
        self._progress.step(f"restore point {name}: {len(chosen)} tables locked for {self._held * 1000:.0f} ms")
        found = contents(self._session, chosen)
        timeline = (self._session.execute(_TIMELINE, [lsn]).fetchone() or ("0",))[0]
        self._session.commit()
        return Witness(
            name=name,
            lsn=Lsn.parse(lsn),
            timeline=int(timeline, 16),
            at=at,
            system=int(system),
            database=database,
            superuser=superuser,
            server_version=version,
            tables=found,
            sequences=numbers,
            unlogged=tuple(map(str, unlogged)),
            attempts=self._attempts,
            held=timedelta(seconds=self._held),
            hashed=timedelta(seconds=self._clock.monotonic() - created),
            created=created,
        )

    def _locked(self, name: str, chosen: Sequence[Table]) -> tuple[str, datetime]:
        def attempt() -> tuple[str, datetime]:
            self._attempts += 1
            try:
                return self._point(name, chosen)
            except BaseException:
                self._session.rollback()
                raise

        within_s, pause_s = self._patience.within.total_seconds(), self._patience.pause.total_seconds()
        what = f"locking {len(chosen)} tables for the restore point"
        try:
            return retry(attempt, on=_CONTENDED, within_s=within_s, what=what, first_pause_s=pause_s, clock=self._clock)
        except GaveUp as exc:
            hint = "find who writes so long: SELECT * FROM pg_stat_activity ORDER BY xact_start; or name fewer --tables"
            raise GaveUp(exc.message, hint=hint) from exc

    def _point(self, name: str, chosen: Sequence[Table]) -> tuple[str, datetime]:
        """Take locks, snapshot and restore point, and give the locks back; the transaction stays open.

        No statement before LOCK takes a snapshot: it would not see what is committed while LOCK waits.
        """
        timeout_ms = int(self._patience.lock_timeout.total_seconds() * 1000)
        self._session.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{timeout_ms}ms")))
        names = sql.SQL(", ").join(sql.SQL("ONLY {}").format(table.identifier) for table in chosen)
        if chosen:
            self._session.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(names))
        self._session.execute("SAVEPOINT held")
        began = self._clock.monotonic()
        if chosen:
            self._session.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(names))
        row = self._session.execute(_RESTORE_POINT, [name]).fetchone()
        assert row is not None
        self._session.execute("ROLLBACK TO SAVEPOINT held")
        self._held = self._clock.monotonic() - began
        return row[0], row[1]
