"""Writes a table anew so that what its old rows held is no longer in its file; then statistics and WAL of before go.

Measured on 15, 17 and 18: after DROP COLUMN and VACUUM every dropped value still stands in the table's file; VACUUM
FULL leaves none. One stands in the file of pg_statistic, and all of them in WAL: segments that a checkpoint recycles
keep their bytes under another name until they are written over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg import errors, sql

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ApplyError, GaveUp, UsageError
from dbsec.migrations import horizon
from dbsec.migrations.names import Name
from dbsec.progress import Progress
from dbsec.retry import retry

_STATISTICS = (Name("pg_catalog", "pg_statistic"), Name("pg_catalog", "pg_statistic_ext_data"))
_FILE: LiteralString = "SELECT pg_catalog.pg_relation_filepath(pg_catalog.to_regclass(%s))"
_SEGMENTS: LiteralString = "SELECT name FROM pg_catalog.pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'"
_NOW: LiteralString = "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn())"
# The message makes the next segment one that can be switched from, and whose name is told: up to 15 a position between
# two segments is the end of the first.
_TURN: LiteralString = "SELECT pg_catalog.pg_switch_wal(), pg_catalog.pg_logical_emit_message(false, 'dbsec', 'turn')"
_HOLDERS: LiteralString = """
SELECT pg_catalog.format('replication slot %L holds it from %s', slot_name, restart_lsn)
FROM pg_catalog.pg_replication_slots WHERE restart_lsn IS NOT NULL
UNION ALL SELECT pg_catalog.format('wal_keep_size is %s MB', setting) FROM pg_catalog.pg_settings
WHERE name = 'wal_keep_size' AND setting <> '0'
UNION ALL SELECT pg_catalog.format('%s segments wait to be archived', pg_catalog.count(*))
FROM pg_catalog.pg_ls_archive_statusdir() WHERE name LIKE '%.ready' HAVING pg_catalog.count(*) > 0
"""
_RECYCLE: LiteralString = """
SELECT sourcefile LIKE '%postgresql.auto.conf', setting FROM pg_catalog.pg_settings WHERE name = 'wal_recycle'
"""


_MORE = 6  # turns beyond the segments that were there


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A table that was written anew at ``at``. Backups that were begun before it, and WAL of before, hold what its rows
    held: they must be gone by ``expires``. ``left``: what of the server itself could not be cleaned, and why."""

    table: str
    method: str
    seconds: float
    at: datetime
    expires: datetime
    left: tuple[str, ...] = ()


def in_window(
    connection: psycopg.Connection[Any],
    table: Name,
    *,
    keep: timedelta,
    progress: Progress,
    give_up_s: float = 60,
    clock: Clock = SYSTEM,
) -> Rewritten:
    """Write a table anew by VACUUM FULL, in a window: nobody reads or writes it until that is done.

    ``keep``: how long backups and archived WAL are kept. Disk: its size once more, while it runs. Locks: ACCESS
    EXCLUSIVE on the table, which is tried for half a second at a time; then on pg_statistic, for a moment.
    Errors: ``ApplyError`` where PostgreSQL passed the table over; ``GaveUp`` where others held it, or could see its
    dead rows, for ``give_up_s``.
    """
    begun = clock.monotonic()
    progress.step("waiting for those who could still see rows of before")
    horizon.wait(connection, within_s=give_up_s, clock=clock)
    progress.step(f"writing '{table}' anew: it is shut until that is done")
    _vacuum_full(connection, table, give_up_s=give_up_s, clock=clock)
    left = cleaned(connection, progress=progress, give_up_s=give_up_s, clock=clock)
    now = clock.now()
    return Rewritten(str(table), "vacuum full", clock.monotonic() - begun, now, now + keep, tuple(left))


def cleaned(
    connection: psycopg.Connection[Any], *, progress: Progress, give_up_s: float = 60, clock: Clock = SYSTEM
) -> list[str]:
    """Clean what lies beside a rewritten table: column statistics, freed files, WAL. Returns what was left, and why."""
    left: list[str] = []
    try:
        horizon.wait(connection, within_s=give_up_s, clock=clock)
    except (GaveUp, ApplyError) as exc:
        left.append(f"column statistics of before are kept for those who can see them: {exc.message}")
    for catalog in _STATISTICS:
        progress.step(f"writing '{catalog}' anew")
        try:
            _vacuum_full(connection, catalog, give_up_s=give_up_s, clock=clock)
        except ApplyError as exc:
            left.append(f"'{catalog}' may hold a value: {exc.message}")
    progress.step("turning WAL over")
    try:
        left += turn_wal(connection)
    except errors.InsufficientPrivilege as exc:
        left.append(f"pg_wal holds it until it is written over: {exc.diag.message_primary}")
    return left


def turn_wal(connection: psycopg.Connection[Any]) -> list[str]:
    """Remove each WAL segment that is there now, recycled ones too, by switching past all of them; as superuser.

    Takes a checkpoint or two, and a segment of zeros for each that was kept in store. WAL that is archived goes to the
    archive first. Returns what holds segments back: slots, wal_keep_size, a late archive.
    """
    before = names = set(_names(connection, _SEGMENTS))
    now = ""
    with _not_recycling(connection):
        connection.execute("CHECKPOINT")
        for _ in range(len(before) + _MORE):
            connection.execute(_TURN)
            now = _names(connection, _NOW)[0]
            if now > max(before):
                connection.execute("CHECKPOINT")
            names = set(_names(connection, _SEGMENTS))
            # one with a name to come may be an old one that was kept in store before the setting was heard of
            if not names & before and max(names) <= now:
                return []
    old, stored = len(names & before), sum(name > now for name in names)
    why = "; ".join(_names(connection, _HOLDERS)) or "the server still needs them"
    return [f"{old + stored} WAL segments of before are still there: {why}"]


def _vacuum_full(connection: psycopg.Connection[Any], table: Name, *, give_up_s: float, clock: Clock) -> None:
    if not connection.autocommit:
        raise UsageError("VACUUM needs a connection in autocommit")
    before = connection.execute(_FILE, (str(table),)).fetchone()
    if before is None or before[0] is None:
        raise ApplyError(f"there is no table '{table}' in this database")
    command = sql.SQL("VACUUM (FULL, ANALYZE) {}").format(sql.Identifier(table.schema or "public", table.name))
    if table in _STATISTICS:
        command = sql.SQL("VACUUM (FULL) {}").format(sql.Identifier(table.schema or "public", table.name))
    with _settings(connection, lock_timeout="500ms", statement_timeout="0"):
        retry(
            lambda: connection.execute(command),
            on=(errors.LockNotAvailable, errors.DeadlockDetected),
            within_s=give_up_s,
            what=f"VACUUM FULL of '{table}'",
            clock=clock,
        )
    if connection.execute(_FILE, (str(table),)).fetchone() == before:
        # only a WARNING says so
        raise ApplyError(f"PostgreSQL passed '{table}' over: the role may not vacuum it", hint="as its owner")


@contextmanager
def _settings(connection: psycopg.Connection[Any], **values: str) -> Iterator[None]:
    """Set what holds for the block; VACUUM cannot run in a transaction, hence no SET LOCAL."""
    set_: LiteralString = "SELECT pg_catalog.set_config(%s, %s, false)"
    old = {name: _names(connection, sql.SQL("SHOW {}").format(sql.Identifier(name)))[0] for name in values}
    for name, value in values.items():
        connection.execute(set_, (name, value))
    try:
        yield
    finally:
        if not connection.closed:
            for name, value in old.items():
                connection.execute(set_, (name, value))


@contextmanager
def _not_recycling(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Let checkpoints remove segments instead of keeping them under another name."""
    row = connection.execute(_RECYCLE).fetchone()
    ours, value = row if row is not None else (False, "on")
    connection.execute("ALTER SYSTEM SET wal_recycle = off")
    try:
        connection.execute("SELECT pg_catalog.pg_reload_conf()")
        yield
    finally:
        back: LiteralString = "ALTER SYSTEM RESET wal_recycle"
        connection.execute(sql.SQL("ALTER SYSTEM SET wal_recycle = {}").format(sql.Literal(value)) if ours else back)
        connection.execute("SELECT pg_catalog.pg_reload_conf()")


def _names(connection: psycopg.Connection[Any], query: Any) -> list[str]:
    return [str(name) for (name,) in connection.execute(query)]
