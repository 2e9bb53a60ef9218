"""A transaction that begins once all its locks are to be had at once: nobody queues behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from dbsec.clock import Clock
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.runner import locking
from dbsec.migrations.runner.limits import Limits
from dbsec.migrations.runner.pursuit import NotYet, Pursuit, Told


def in_turn(
    connection: psycopg.Connection[Any],
    what: str,
    locks: Iterable[tuple[Name, LockMode]],
    act: Callable[[], None],
    *,
    limits: Limits,
    clock: Clock,
    told: Told | None = None,
) -> None:
    """Call ``act`` in a transaction that holds ``locks``, by the runner's NOWAIT turns.

    Errors: ``LockNotTaken``, naming who holds them; what ``act`` raises, with everything rolled back.
    """
    pursuit = Pursuit(connection, what, locking.targets(connection, locks), limits, clock, told)
    while True:
        if not pursuit.clear():
            pursuit.refused()
            continue
        try:
            _turn(connection, pursuit, act, limits)
            return
        except NotYet as exc:
            pursuit.refused(str(exc))
        except psycopg.Error as exc:
            if not locking.is_refusal(exc):
                raise
            pursuit.refused(str(exc.diag.message_primary))


def _turn(connection: psycopg.Connection[Any], pursuit: Pursuit, act: Callable[[], None], limits: Limits) -> None:
    own = f"{limits.own_wait_ms}ms"
    opening = (
        f"BEGIN; SET LOCAL lock_timeout = '{own}'; SET LOCAL statement_timeout = '{int(limits.short_s * 1000)}ms'; "
        "SET LOCAL search_path = pg_catalog, pg_temp"  # every name of ours bears its schema
    )
    try:
        pursuit.take(opening.encode(), own)
        act()
        connection.execute("COMMIT")
    finally:
        if not connection.closed and connection.info.transaction_status is not TransactionStatus.IDLE:
            connection.execute("ROLLBACK")
