"""Finds what outlives a test: processes below this one, also those that were given away, and its listeners."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dbsec import process
from dbsec.process import ProcessId
from dbsec.testing import proc

_PR_SET_CHILD_SUBREAPER = 36
_LADDER = ((signal.SIGINT, 5.0), (signal.SIGQUIT, 5.0))  # PostgreSQL ends its children on both


def adopt_orphans() -> None:
    """Make this process the parent of descendants that lose theirs, as daemons do: they stay in sight.

    Errors: ``OSError``. Source: prctl(2), PR_SET_CHILD_SUBREAPER.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


@contextmanager
def nothing_survives(*, within_s: float = 3.0, spare: Callable[[], Iterable[ProcessId]] = tuple) -> Iterator[None]:
    """Run the block, then stop and tell what it left: children, orphans and listeners that were not there before.

    ``spare`` names servers that may stay, asked at the end. Errors: ``AssertionError`` where something outlives the
    block by ``within_s``.
    """
    adopt_orphans()
    children, sockets = _children(), proc.sockets([os.getpid()])
    yield
    deadline = time.monotonic() + within_s
    while True:
        left = _children() - children - set(spare())
        open_ports = sorted(port for port, _ in proc.listeners_among(proc.sockets([os.getpid()]) - sockets))
        if not left and not open_ports:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    names = [f"process {child.pid} ({proc.name(child.pid)})" for child in left]
    for child in left:
        process.stop(child, ladder=_LADDER)
    raise AssertionError("left behind: " + ", ".join(names + [f"a listener on port {port}" for port in open_ports]))


def _children() -> set[ProcessId]:
    """Return the living children of every thread of this process."""
    pids = []
    for task in Path("/proc/self/task").iterdir():
        try:
            pids += [int(pid) for pid in (task / "children").read_text().split()]
        except FileNotFoundError:
            continue  # a thread that has ended
    return {child for pid in pids if (child := ProcessId.of(pid)) is not None}
