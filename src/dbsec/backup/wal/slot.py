"""The replication slot that keeps WAL on the server until the repository has it, and the watch over what that costs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg

from dbsec.backup.base.replication import Replication
from dbsec.backup.errors import BackupError
from dbsec.errors import UsageError
from dbsec.pg.lsn import Lsn

DEFAULT: Final = "dbsec_receiver"
UNLIMITED: Final = "-1"
_NAME: Final = re.compile(r"[a-z0-9_]{1,63}")
_HELD: LiteralString = """
SELECT active, coalesce(wal_status, ''), safe_wal_size,
       coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                     ELSE pg_current_wal_lsn() END, restart_lsn), 0)::int8
  FROM pg_replication_slots WHERE slot_name = %s AND slot_type = 'physical'
"""


class SlotLost(BackupError):
    """A slot from which the server has removed WAL that nobody had received."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Held:
    """What a slot keeps on the server. ``status``: reserved, extended, unreserved or lost; sizes in bytes.

    ``safe_bytes`` is what may still be written before WAL is removed; None where nothing is ever removed.
    """

    active: bool
    status: str
    safe_bytes: int | None
    retained_bytes: int


def check_name(name: str) -> str:
    """Return a name of a slot. Errors: ``UsageError``."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"'{name[:80]}' is no name of a slot", hint="lower case letters, digits and _; 63 at most")
    return name


def ensure(session: Replication, name: str, *, unlimited: bool) -> tuple[int, Lsn]:
    """Return the timeline and LSN from which a slot keeps WAL; one that is missing is made, and keeps WAL at once.

    Errors: ``UsageError`` where nothing limits what it may keep, unless ``unlimited``; ``SlotLost``; ``ConnectError``.
    """
    kept = session.show("max_slot_wal_keep_size")
    if kept == UNLIMITED and not unlimited:
        raise UsageError(
            "max_slot_wal_keep_size is -1: while nobody receives, the slot would fill the server's disk",
            hint="ALTER SYSTEM SET max_slot_wal_keep_size = '10GB' and reload; or --unlimited-slot",
        )
    found = _read(session, name)
    if found is None:
        session.rows(f"CREATE_REPLICATION_SLOT {name} PHYSICAL RESERVE_WAL")
        found = _read(session, name)
    if found is None or found[1] is None:
        raise lost(name)
    return found[0], found[1]


def lost(name: str) -> SlotLost:
    """Return the error that says what to do."""
    return SlotLost(
        f"the slot '{name}' is lost: the server has removed WAL that was not received, and there may be a hole",
        hint="dbsec backup wal receive --drop-slot, then start it again; where dbsec backup verify finds a hole then,"
        " dbsec backup take",
    )


def drop(session: Replication, name: str) -> bool:
    """Drop a slot and tell whether it was there. Errors: ``ConnectError`` while somebody uses it."""
    if _read(session, name) is None:
        return False
    session.rows(f"DROP_REPLICATION_SLOT {name}")
    return True


def held(session: psycopg.Connection[Any], name: str) -> Held | None:
    """Look at a slot over SQL, which any login may; None where there is none."""
    row = session.execute(_HELD, (name,)).fetchone()
    return None if row is None else Held(*row)


def _read(session: Replication, name: str) -> tuple[int, Lsn | None] | None:
    """Read a slot: the timeline and LSN that it keeps WAL from. Source: READ_REPLICATION_SLOT, PostgreSQL 15."""
    rows = session.rows(f"READ_REPLICATION_SLOT {check_name(name)}")
    kind, at, timeline = rows[0] if rows else (None, None, None)
    if kind is None:
        return None
    return int(timeline or 0), None if at is None else Lsn.parse(at)
