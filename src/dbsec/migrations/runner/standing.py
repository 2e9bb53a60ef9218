"""The files beside the ledger: what is applied, what waits, and what does not fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbsec.migrations.runner import files
from dbsec.migrations.runner.files import FileKind, Migration
from dbsec.migrations.runner.ledger import Entry, State
from dbsec.migrations.runner.obstacle import Block, Obstacle
from dbsec.migrations.script import Phase


@dataclass(frozen=True, slots=True)
class Standing:
    """One folder against one ledger, both by number."""

    migrations: Mapping[int, Migration]
    entries: Mapping[int, Entry]

    @property
    def pending(self) -> list[Migration]:
        """What ``up`` has to run, in order: what is not applied, an interrupted one first where it is the lowest."""
        return [m for number, m in self.migrations.items() if not self._is(number, State.APPLIED)]

    @property
    def applied(self) -> list[Entry]:
        """What was applied, oldest number first."""
        return [entry for entry in self.entries.values() if entry.state is State.APPLIED]

    @property
    def interrupted(self) -> list[Entry]:
        """What was begun and did not end."""
        return [entry for entry in self.entries.values() if entry.state.interrupted]

    @property
    def begun(self) -> frozenset[str]:
        """Paths of the files that were begun and did not end."""
        known = (self.migrations.get(entry.number) for entry in self.interrupted)
        return frozenset(str(one.path) for one in known if one is not None)

    def misfits(self, *, out_of_order: bool = False) -> Iterator[Obstacle]:
        """Yield the files that were edited, deleted, or added before one that is applied."""
        for number, entry in self.entries.items():
            if entry.state is State.REVERTED:
                continue
            if (migration := self.migrations.get(number)) is None:
                yield self._deleted(entry)
            elif entry.state is State.APPLIED and migration.checksum != entry.checksum:
                yield self._edited(migration, entry)
        newest = max((entry.number for entry in self.applied), default=0)
        for migration in self.pending:
            if migration.number < newest and not out_of_order and not self._is_interrupted(migration.number):
                yield self._late(migration, newest)

    def series(self, contract: Migration) -> list[Migration]:
        """Return the backfills that a contract ends: those since the contract before them.

        A contract that follows another one ends the same series.
        """
        found: list[Migration] = []
        ended = False
        for migration in sorted(self.migrations.values(), key=lambda one: one.number):
            if migration.number >= contract.number:
                break
            if migration.phase is Phase.CONTRACT:
                ended = True
                continue
            if ended:
                found, ended = [], False
            if migration.phase is Phase.BACKFILL:
                found.append(migration)
        return found

    def settled(self, backfill: Migration, contract: Migration) -> bool:
        """Tell whether an applied contract between the two has judged it: what the backfill read may be gone."""
        between = (one for one in self.migrations.values() if backfill.number < one.number < contract.number)
        return any(one.phase is Phase.CONTRACT and self._is(one.number, State.APPLIED) for one in between)

    def _is(self, number: int, state: State) -> bool:
        return number in self.entries and self.entries[number].state is state

    def _is_interrupted(self, number: int) -> bool:
        return number in self.entries and self.entries[number].state.interrupted

    @staticmethod
    def _edited(migration: Migration, entry: Entry) -> Obstacle:
        at = f"{entry.finished_at:%Y-%m-%d %H:%M}" if entry.finished_at else "once"
        return Obstacle(
            Block.EDITED,
            f"'{migration.path}' was edited after it was applied ({at}, by {entry.run_by})",
            f"git checkout {migration.path}; write the change as a migration of its own",
            entry.number,
        )

    @staticmethod
    def _deleted(entry: Entry) -> Obstacle:
        return Obstacle(
            Block.DELETED,
            f"'{entry.label}' is applied, and its file is gone",
            "git log --diff-filter=D --name-only shows who deleted it; bring it back",
            entry.number,
        )

    @staticmethod
    def _late(migration: Migration, newest: int) -> Obstacle:
        return Obstacle(
            Block.OUT_OF_ORDER,
            f"'{migration.path.name}' was added before {newest:03}, which is applied already",
            f"give it a number above {newest:03}, or say --out-of-order",
            migration.number,
        )


def of(folder: Path, entries: Mapping[int, Entry]) -> Standing:
    """Read a folder and lay it beside a ledger. Errors: those of ``files.find``."""
    found = files.find(folder, known=[n for n, entry in entries.items() if entry.state is not State.REVERTED])
    return Standing({one.number: one for one in found}, entries)


def before(migrations: Sequence[Migration], *, to: int | None, phase: Phase | None) -> list[Migration]:
    """Cut a list at a number, and before the first file of a later phase than ``phase``."""
    order = list(Phase)
    kept = []
    for migration in migrations:
        if to is not None and migration.number > to:
            break
        if phase is not None and order.index(migration.phase) > order.index(phase):
            break
        kept.append(migration)
    return kept


__all__ = ["FileKind", "Standing", "before", "of"]
