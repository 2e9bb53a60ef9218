"""A second session that tells whom a statement waits for, while the first one is busy with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from dbsec.errors import DbsecError
from dbsec.migrations.runner.blockers import Blocker, blockers

_EVERY_S = 1.0


@contextmanager
def watching(
    watch: Callable[[], psycopg.Connection[Any]] | None, pid: int, told: Callable[[Sequence[Blocker]], None] | None
) -> Iterator[None]:
    """Call ``told`` once a second from a thread of its own while ``pid`` waits; without ``watch`` or ``told`` nothing.

    What goes wrong in it ends the telling, and never the statement.
    """
    if watch is None or told is None:
        yield
        return
    ended = threading.Event()

    def look() -> None:
        with suppress(psycopg.Error, DbsecError), watch() as connection:
            while not ended.wait(_EVERY_S):
                if found := blockers(connection, pid):
                    told(found)

    thread = threading.Thread(target=look, name=f"watch-{pid}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
