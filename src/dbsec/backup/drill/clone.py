"""A clone for a drill: restored, started apart from everything, written to, examined, compared, and removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, LiteralString, Protocol

import psycopg

from dbsec.backup.drill.amcheck import examine
from dbsec.backup.drill.apart import set_apart
from dbsec.backup.drill.compare import Comparison, compare
from dbsec.backup.drill.homes import clone_home
from dbsec.backup.drill.witness import Witness
from dbsec.backup.errors import BackupError
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ConnectError, GaveUp, ProgramError
from dbsec.pg import Conninfo, connect
from dbsec.pg.binaries import Binaries
from dbsec.pg.instance import Instance
from dbsec.process import Account, last_lines
from dbsec.progress import Progress
from dbsec.retry import wait_until

# connection, resources, an operator: these say nothing of the data
_NOT_ITS_FAULT: Final = ("", "08", "53", "57")
_ENDS_S: Final = 20.0
_STATE: LiteralString = "SELECT pg_is_in_recovery(), pg_last_xact_replay_timestamp()"
# An event trigger of the service (our own guardrails) is not asked: this is no migration.
_FIRST_WRITE: LiteralString = """
SET session_replication_role = replica;
CREATE SCHEMA dbsec_drill_clone;
CREATE TABLE dbsec_drill_clone.first_write AS SELECT now() AS at;
RESET session_replication_role
"""


class NotRestored(BackupError):
    """A clone that was not filled, or did not come up at its target, with what was said."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Origin:
    """What a clone was made from. ``unverified`` is why its files were not compared with the manifest, or ""."""

    backup: str
    target: str
    plain_bytes: int
    unverified: str = ""
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """Fills a data folder that recovers to a target when it is started."""

    @property
    def binaries(self) -> Binaries:
        """The programs that run the clone."""

    def filled(self, data: Path, place: Place, progress: Progress) -> AbstractContextManager[Origin]:
        """Fill the folder; WAL is served while the block runs. The folder above is the clone's alone."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where clones live and how they are proven. ``scratch`` is a folder that ``account`` may enter.

    ``port`` names a free one. ``settings`` go over the original's (less shared_buffers on a small host). ``smoke`` is
    the service's own test: it says what does not work, or "". ``patience_s``: how long a replay may last.
    """

    scratch: Path
    account: Account
    port: Callable[[], int]
    smoke: Callable[[Conninfo], str] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    patience_s: float = 4 * 3600

    @property
    def owner(self) -> tuple[int, int] | None:
        return None if self.account.is_current else (self.account.uid, self.account.gid)


@dataclass(frozen=True, slots=True)
class Cloned:
    """What a clone showed. Units: seconds, each phase by itself.

    ``rto_s`` runs from the start of the restore to the first write that the clone accepted; what follows is proof, and
    counts in ``proof_s`` alone. ``replayed_to`` is the commit time of the last transaction that was replayed.
    ``unknown`` says what could not be examined; ``smoked``: the service's test was run, and ``smoke`` is what it said
    where it failed.
    """

    origin: Origin
    restore_s: float
    replay_s: float
    rto_s: float
    proof_s: float
    replayed_to: datetime | None
    comparison: Comparison
    corruption: tuple[str, ...]
    unknown: tuple[str, ...]
    smoked: bool = False
    smoke: str = ""


def prove(source: Source, witness: Witness, place: Place, *, progress: Progress, clock: Clock = SYSTEM) -> Cloned:
    """Make a clone, compare it with its witness, and remove it.

    Errors: ``NotRestored``; those of the source; ``UsageError`` for a scratch folder that is no place for it.
    """
    began = clock.monotonic()
    with (
        clone_home(place.scratch.absolute(), place.account, source.binaries) as home,
        source.filled(home / "data", place, progress) as origin,
    ):
        filled = clock.monotonic()
        instance = _instance(source.binaries, home, place)
        try:
            login = _started(instance, home, witness, place, progress)
            with _connected(instance, login, clock) as session:
                replayed_to = _promoted(instance, session, place, clock)
                promoted = clock.monotonic()
                session.execute(_FIRST_WRITE)
                accepted = clock.monotonic()
                progress.step("the clone accepts writes: comparing it with its witness")
                comparison = _compared(session, witness)
                corruption, unknown = examine(session, progress)
            said = _smoke(place, login, progress)
        finally:
            instance.stop()
    return Cloned(
        origin=origin,
        restore_s=filled - began,
        replay_s=promoted - filled,
        rto_s=accepted - began,
        proof_s=clock.monotonic() - accepted,
        replayed_to=replayed_to,
        comparison=comparison,
        corruption=corruption,
        unknown=unknown,
        smoked=place.smoke is not None,
        smoke=said,
    )


def _compared(session: psycopg.Connection[Any], witness: Witness) -> Comparison:
    """Compare; a clone on which cannot be read what could be read on its original differs from it."""
    try:
        return compare(session, witness)
    except psycopg.Error as exc:
        if (exc.sqlstate or "")[:2] in _NOT_ITS_FAULT:
            raise
        said = f"it cannot be read: {exc.sqlstate}: {exc.diag.message_primary}"
        return Comparison(0, 0, (said,))


def _instance(binaries: Binaries, home: Path, place: Place) -> Instance:
    return Instance(binaries, home / "data", place.port(), home / "server.log", place.account)


def _started(instance: Instance, home: Path, witness: Witness, place: Place, progress: Progress) -> Conninfo:
    set_apart(instance, home / "s", place.settings)
    progress.step(f"replaying WAL to {witness.name}")
    try:
        instance.start(timeout_s=int(place.patience_s))
    except ProgramError as exc:
        raise NotRestored(f"the clone did not come up: {exc.tail or exc.message}", hint="dbsec backup verify") from exc
    told = {"host": str(home / "s"), "port": str(instance.port), "user": witness.superuser, "dbname": witness.database}
    return Conninfo(told)


def _connected(instance: Instance, login: Conninfo, clock: Clock) -> psycopg.Connection[Any]:
    try:
        return connect(login)
    except ConnectError as exc:
        _tell_end(instance, exc, clock)
        raise


def _promoted(instance: Instance, session: psycopg.Connection[Any], place: Place, clock: Clock) -> datetime | None:
    """Wait until the clone takes writes. Errors: ``NotRestored`` where it ended instead."""
    last: datetime | None = None

    def open_for_writes() -> bool:
        nonlocal last
        try:
            standby, seen = session.execute(_STATE).fetchone() or (True, None)
        except psycopg.OperationalError as exc:
            _tell_end(instance, exc, clock)
            raise
        last = seen or last
        return not standby

    wait_until(open_for_writes, within_s=place.patience_s, what="the clone to reach its target", clock=clock)
    return last


def _tell_end(instance: Instance, exc: Exception, clock: Clock) -> None:
    """Tell a clone that has given up, by the end of its log, from one that only did not answer.

    It closes its sessions before it is gone. Errors: ``NotRestored``.
    """
    with suppress(GaveUp):
        wait_until(lambda: instance.running() is None, within_s=_ENDS_S, what="the clone's end", clock=clock)
        raise NotRestored(
            f"the clone ended while it replayed: {last_lines(instance.log)}", hint="dbsec backup verify"
        ) from exc


def _smoke(place: Place, login: Conninfo, progress: Progress) -> str:
    """Run the service's test; returns what it complained of, or ""."""
    if place.smoke is None:
        return ""
    progress.step("the service's smoke test")
    return place.smoke(login)
