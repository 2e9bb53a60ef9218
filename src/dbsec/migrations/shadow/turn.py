"""A transaction that begins once all its locks are to be had at once: nobody queues behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import psycopg

from dbsec.clock import Clock
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.runner import locking
from dbsec.migrations.runner.limits import Limits
from dbsec.migrations.runner.locking import Pursuit, Told


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
        pursuit.attempts += 1
        try:
            with connection.transaction():
                for part in pursuit.taking(f"{limits.own_wait_ms}ms"):
                    connection.execute(part.as_bytes(connection))
                act()
            return
        except psycopg.Error as exc:
            if not locking.is_refusal(exc):
                raise
            pursuit.refused(str(exc.diag.message_primary))
