"""``dbsec migrate status``: what is applied, what waits, who runs, and which releases are connected."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from dbsec.migrations.runner import alone, files, judging, ledger, standing
from dbsec.migrations.runner.gate import Gate
from dbsec.migrations.runner.obstacle import Block, Obstacle
from dbsec.migrations.runner.releases import Seen
from dbsec.migrations.runner.target import Target
from dbsec.pg import own


@dataclass(frozen=True, slots=True)
class Row:
    """One migration: ``state`` is the ledger's, or "pending"."""

    number: int
    name: str
    phase: str
    kind: str
    state: str
    finished_at: datetime | None = None
    run_by: str = ""

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Status:
    """``runner``: who holds the lock. ``seen`` None: no schema dbsec. ``ignored``: files without number."""

    rows: tuple[Row, ...]
    obstacles: tuple[Obstacle, ...]
    runner: str | None
    seen: Seen | None
    gate: Gate
    ignored: tuple[str, ...]

    @property
    def window(self) -> timedelta:
        return timedelta(seconds=self.gate.settings.quiet_s)


def status(target: Target) -> Status:
    """Read how things stand, and look at the clients, which is recorded. Locks: none but on catalogs."""
    with target.connect() as connection:
        obstacles: list[Obstacle] = []
        seen = None
        if (own.installed(connection) or 0) >= ledger.NEEDS:
            seen = judging.look(target, connection)
        else:
            hint = "dbsec db install --dsn REF --user ROLE --apply"
            obstacles.append(Obstacle(Block.NOT_INSTALLED, "schema 'dbsec' is not installed here", hint))
        runner = alone.holder(connection)
        now = standing.of(target.folder, ledger.read(connection))
        unchecked = {entry.number for entry in now.interrupted if _check_failed(connection, entry)}
    obstacles += now.misfits()
    if runner is None:
        obstacles += [_interrupted(entry, unchecked) for entry in now.interrupted]
    gate = Gate(target.settings, target.release or target.settings.release)
    return Status(_rows(now), tuple(obstacles), runner, seen, gate, tuple(files.ignored(target.folder)))


def _rows(now: standing.Standing) -> tuple[Row, ...]:
    rows = []
    for number in sorted({*now.migrations, *now.entries}):
        migration, entry = now.migrations.get(number), now.entries.get(number)
        one = migration or entry
        assert one is not None
        when = (entry.finished_at, entry.run_by) if entry else (None, "")
        rows.append(
            Row(number, one.name, str(one.phase), str(one.kind), str(entry.state) if entry else "pending", *when)
        )
    return tuple(rows)


def _check_failed(connection: psycopg.Connection[Any], entry: ledger.Entry) -> bool:
    events = ledger.events(connection, entry.number)
    return entry.state is ledger.State.APPLYING and bool(events) and events[-1].event == ledger.CHECK_FAILED


def _interrupted(entry: ledger.Entry, unchecked: Collection[int]) -> Obstacle:
    if entry.number in unchecked:
        message = f"'{entry.label}' was run, and its check does not hold: what follows waits for it"
        return Obstacle(Block.CHECK, message, "mend the rows or the check, then: dbsec migrate resume", entry.number)
    what = "its way back broke off" if entry.state is ledger.State.REVERTING else "it broke off"
    return Obstacle(Block.INTERRUPTED, f"'{entry.label}': {what}", "dbsec migrate resume", entry.number)
