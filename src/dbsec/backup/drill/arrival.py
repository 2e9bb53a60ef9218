"""Watches a repository until it holds a witness: what had been lost until then is the RPO."""

from __future__ import annotations

from functools import partial
from typing import Final

from dbsec.backup.drill.archive import Archive, Point
from dbsec.backup.drill.objectives import Arrival
from dbsec.backup.errors import NotRecoverable
from dbsec.clock import SYSTEM, Clock
from dbsec.config import Objectives
from dbsec.errors import GaveUp
from dbsec.pg import Conninfo, connect
from dbsec.progress import Progress
from dbsec.retry import wait_until

_EVERY_S: Final = 0.1  # the error of what is measured
_FORCED_S: Final = 60.0


def await_point(
    archive: Archive,
    server: Conninfo,
    point: Point,
    objectives: Objectives,
    *,
    progress: Progress,
    clock: Clock = SYSTEM,
) -> Arrival:
    """Wait until the repository holds a point; nothing is done to hasten it within the objective.

    **rights** on the server: EXECUTE on pg_switch_wal, where it comes late. Errors: ``NotRecoverable`` where it does
    not come at all; those of the store.
    """
    progress.step(f"waiting for the repository to hold {point.lsn}")
    held = partial(archive.watched(), point)
    left_s = max(objectives.rpo_s - (clock.monotonic() - point.created), 0)
    try:
        wait_until(held, within_s=left_s, what="the witness", every_s=_EVERY_S, clock=clock)
        return Arrival(clock.monotonic() - point.created, forced=False)
    except GaveUp:
        late_s = clock.monotonic() - point.created
    progress.step(f"it is beyond the RPO of {objectives.rpo_s:g} s: switching to a new segment")
    with connect(server) as session:
        session.execute("SELECT pg_switch_wal()")
    try:
        wait_until(held, within_s=_FORCED_S, what="the witness", every_s=_EVERY_S, clock=clock)
    except GaveUp as exc:
        raise NotRecoverable(
            f"the repository does not hold WAL up to {point.lsn}, {late_s + _FORCED_S:.0f} s after it was written",
            hint="SELECT * FROM pg_stat_archiver; is the archiver running?",
        ) from exc
    return Arrival(late_s, forced=True)
