"""One runner a database, by an advisory lock that dies with its session; the second waits, or names the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg

from dbsec import retry
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import GaveUp
from dbsec.pg import advisory
from dbsec.progress import Progress

LOCK = advisory.key("runner")
_POLL_S = 0.2
_TRY: LiteralString = "SELECT pg_catalog.pg_try_advisory_lock(%s)"
_FREE: LiteralString = "SELECT pg_catalog.pg_advisory_unlock(%s)"


@contextmanager
def alone(
    connection: psycopg.Connection[Any], *, wait_s: float, progress: Progress, clock: Clock = SYSTEM
) -> Iterator[None]:
    """Hold the runner's lock while the block runs.

    Locks: an advisory one, of the session. ``connection`` is in autocommit and no pooler's (``require_session``).
    Errors: ``GaveUp`` naming the other runner after ``wait_s``.
    """
    if not _taken(connection):
        progress.step(f"waits for another runner: {holder(connection) or 'it has just ended'}")
        try:
            retry.wait_until(
                lambda: _taken(connection), within_s=wait_s, what="the other runner", every_s=_POLL_S, clock=clock
            )
        except GaveUp as exc:
            raise GaveUp(
                f"another runner is at work in '{connection.info.dbname}': {holder(connection) or 'it has just ended'}",
                hint="wait for it with --wait 10min; dbsec migrate status shows where it is",
            ) from exc
    try:
        yield
    finally:
        if not connection.closed and not connection.broken:
            connection.execute(_FREE, [LOCK])


def holder(connection: psycopg.Connection[Any]) -> str | None:
    """Name who holds the runner's lock; None where nobody does."""
    for found in advisory.holders(connection, LOCK):
        return f"{found}, since {found.since:%Y-%m-%d %H:%M:%S%z}" if found.since else str(found)
    return None


def _taken(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute(_TRY, [LOCK]).fetchone()
    return bool(row and row[0])
