"""What tells whether backups would restore now: how far WAL reaches, what waits, what a slot keeps, how old proofs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from typing import Any, LiteralString

import psycopg

from dbsec.backup import catalog
from dbsec.backup.drill.proof import last_proven
from dbsec.backup.repository import Repository
from dbsec.backup.wal import frontier, slot
from dbsec.clock import SYSTEM, Clock
from dbsec.config import Objectives
from dbsec.errors import DbsecError, reason
from dbsec.log import Redactor
from dbsec.metrics import Sample
from dbsec.pg.lsn import Lsn

_SERVER: LiteralString = """
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_flush_lsn() END::text,
       (SELECT timeline_id FROM pg_control_checkpoint())
"""
_ARCHIVER: LiteralString = """
SELECT archived_count, failed_count, last_failed_time > coalesce(last_archived_time, '-infinity') FROM pg_stat_archiver
"""
_READY: LiteralString = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"


def collect(
    repository: Callable[[], Repository],
    server: Callable[[], psycopg.Connection[Any]] | None,
    objectives: Objectives,
    *,
    slot_name: str = slot.DEFAULT,
    clock: Clock = SYSTEM,
) -> tuple[list[Sample], dict[str, str]]:
    """Measure all that can be asked; returns the samples, and what is away with the reason. ``server`` None: not asked.

    What is away has 0 in ``dbsec_backup_up``, and no other sample: an alert must not rest on a number from before.
    """
    away: dict[str, str] = {}
    found: list[Sample] = []
    opened: list[Repository] = []

    def store() -> Iterator[Sample]:
        opened.append(repository())
        return of_repository(opened[0], objectives, clock=clock)

    def host() -> Iterator[Sample]:
        with closing(server()) as session:  # type: ignore[misc] # asked for only where it is there
            yield from of_server(opened[0] if opened else repository(), session, slot_name=slot_name)

    for name, ask in (("store", store), *([("server", host)] if server is not None else [])):
        try:
            found += list(ask())
        except (DbsecError, psycopg.Error, OSError) as exc:
            away[name] = Redactor().redact(reason(exc))
        found.append(Sample("dbsec_backup_up", name not in away, "1 where it could be asked.", {"what": name}))
    return found, away


def of_repository(repository: Repository, objectives: Objectives, *, clock: Clock = SYSTEM) -> Iterator[Sample]:
    """Measure what lies in the store. Errors: those of the store; ``KeyUnavailable``."""
    now = clock.now()
    for reach in frontier.reaches(repository):
        labels = {"timeline": str(reach.timeline)}
        lost = sum(end - start for start, end in reach.holes)
        yield Sample("dbsec_backup_wal_frontier_lsn", reach.end.value, "The LSN up to which WAL is stored.", labels)
        yield Sample("dbsec_backup_wal_frontier_age_seconds", _age(now, reach.newest), "Since WAL was stored.", labels)
        yield Sample("dbsec_backup_wal_holes", len(reach.holes), "Holes in the WAL of a timeline.", labels)
        yield Sample("dbsec_backup_wal_hole_bytes", lost, "WAL that is missing in them, in bytes.", labels)
    backups = catalog.backups(repository)
    yield Sample("dbsec_backup_backups", len(backups), "Base backups that are finished.")
    if backups:
        age = _age(now, backups[-1].stopped_at)
        yield Sample("dbsec_backup_last_backup_age_seconds", age, "Since the last base backup was finished.")
    proven = last_proven(repository)
    # an age that was never begun is no small number
    age = float("inf") if proven is None else _age(now, proven)
    yield Sample("dbsec_backup_last_proven_restore_age_seconds", age, "Since a drill last proved a restore.")
    for name, value in (
        ("rpo_seconds", objectives.rpo_s),
        ("rto_seconds", objectives.rto_s),
        ("recovery_window_seconds", objectives.recovery_window_days * 86400),
    ):
        yield Sample(f"dbsec_backup_objective_{name}", value, "What dbsec.toml promises in [objectives].")


def of_server(
    repository: Repository, session: psycopg.Connection[Any], *, slot_name: str = slot.DEFAULT
) -> Iterator[Sample]:
    """Measure what waits on the server. Needs pg_monitor. Errors: ``psycopg.Error``; those of the store."""
    at, timeline = session.execute(_SERVER).fetchone() or ("0/0", 0)
    for reach in frontier.reaches(repository, timeline=timeline):
        behind = max(0, Lsn.parse(at or "0/0") - reach.end)
        yield Sample("dbsec_backup_wal_behind_bytes", behind, "WAL that the server has, and the store does not.")
    archived, failed, failing = session.execute(_ARCHIVER).fetchone() or (0, 0, False)
    yield Sample("dbsec_backup_archived_files", archived, "Files that archive_command has put.")
    yield Sample("dbsec_backup_archive_failures", failed, "Failures of archive_command.")
    yield Sample("dbsec_backup_archive_failing", bool(failing), "1 while its last run has failed.")
    (waiting,) = session.execute(_READY).fetchone() or (0,)
    yield Sample("dbsec_backup_archive_waiting_files", waiting, "Files that wait for archive_command.")
    held = slot.held(session, slot_name)
    if held is not None:
        labels = {"slot": slot_name}
        gone = held.status not in ("reserved", "extended")
        yield Sample("dbsec_backup_slot_active", held.active, "1 while a receiver streams.", labels)
        yield Sample("dbsec_backup_slot_at_risk", gone, "1 where the server may remove its WAL, or has.", labels)
        yield Sample("dbsec_backup_slot_retained_bytes", held.retained_bytes, "WAL that it keeps.", labels)
        if held.safe_bytes is not None:
            yield Sample("dbsec_backup_slot_safe_bytes", held.safe_bytes, "WAL until it may lose some.", labels)


def _age(now: datetime, then: datetime) -> float:
    return max(0.0, (now - then).total_seconds())
