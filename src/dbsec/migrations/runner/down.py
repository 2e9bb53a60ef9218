"""``dbsec migrate down``: the way back of what was applied last, until a contract; after it, the way forward."""

from __future__ import annotations

from dataclasses import dataclass

from dbsec.errors import DbsecError
from dbsec.migrations.runner import backfilling, forward, ledger
from dbsec.migrations.runner.dropping import LOSES_ROWS, names_taken_away
from dbsec.migrations.runner.files import FileKind, Migration, script_of
from dbsec.migrations.runner.ledger import Dropped, Entry, State
from dbsec.migrations.runner.obstacle import Block, Obstacle
from dbsec.migrations.runner.standing import Standing
from dbsec.migrations.runner.stepping import turns_of
from dbsec.migrations.runner.target import Asked, Target
from dbsec.migrations.runner.up import Applied, Outcome, Runner
from dbsec.migrations.schema.catalog import from_catalog
from dbsec.migrations.script import Phase


def down(target: Target, asked: Asked) -> Outcome:
    """Revert what was applied last, or all above ``asked.to``; a contract that is done is not reverted.

    Locks and errors: those of ``up``.
    """
    with target.machine(wait_s=asked.wait_s) as machine:
        runner = Runner(target, machine, asked)
        reverter = _Reverter(runner, runner.standing())
        for entry in reverter.asked_for(asked.to):
            if not reverter.revert(entry):
                break
        return runner.outcome


def resume(target: Target, asked: Asked) -> Outcome:
    """End what was interrupted, in the direction in which it went. Errors: those of ``up``."""
    with target.machine(wait_s=asked.wait_s) as machine:
        runner = Runner(target, machine, asked)
        now = runner.standing()
        for entry in now.interrupted:
            migration = now.migrations.get(entry.number)
            if entry.state is State.REVERTING:
                _Reverter(runner, now).revert(entry)
            elif migration is None:
                runner.refused(None, [_file_gone(entry)])
            else:
                runner.run(now, [migration])
            if runner.outcome.obstacles:
                break
        return runner.outcome


@dataclass(frozen=True)
class _Reverter:
    """Goes back over one session, with the folder and the ledger as they stand."""

    runner: Runner
    now: Standing

    def asked_for(self, to: int | None) -> list[Entry]:
        """Return what is to be reverted, the newest first."""
        standing = [entry for entry in self.now.entries.values() if entry.state is not State.REVERTED]
        newest_first = sorted(standing, key=lambda entry: entry.number, reverse=True)
        if to is None:
            return newest_first[:1]
        return [entry for entry in newest_first if entry.number > to]

    def revert(self, entry: Entry) -> bool:
        """Run the way back of one migration; False where something stands in the way."""
        migration = self.now.migrations.get(entry.number)
        if migration is None:
            return not self.runner.refused(None, [_file_gone(entry)])
        if self.runner.refused(migration, self._obstacles(migration, entry)):
            return False
        connection, machine = self.runner.machine.connection, self.runner.machine
        back = script_of(migration.down) if migration.down else None
        if back is not None:
            turns_of(back)  # refuses before the ledger says "reverting"
        self.runner.target.progress.step(f"{entry.label}: back")
        ledger.move(connection, entry.number, State.REVERTING)
        self.runner.edge(f"{entry.label} reverting")
        try:
            did = machine.run(back, entry.job("down")) if back is not None else []
            if migration.kind is FileKind.BACKFILL:
                backfilling.forget(connection, migration)
        except DbsecError as exc:
            self.runner.failed(migration, exc)
            raise
        self.runner.edge(f"{entry.label} reversed")
        ledger.move(connection, entry.number, State.REVERTED)
        self.runner.edge(f"{entry.label} reverted")
        ledger.tell(connection, entry.number, "reverted")
        self.runner.outcome.applied.append(Applied(migration, State.REVERTED, tuple(did)))
        return True

    def _obstacles(self, migration: Migration, entry: Entry) -> list[Obstacle]:
        if entry.state is State.APPLIED and migration.checksum != entry.checksum:
            return [one for one in self.now.misfits(out_of_order=True) if one.number == entry.number]
        gone = self._gone(migration, entry)
        lost = [one for one in gone if one.what in LOSES_ROWS]
        if lost or (entry.phase is Phase.CONTRACT and entry.state is State.APPLIED):
            self.runner.outcome.forward = forward.plan(entry, gone, list(self.now.migrations))
            return [_no_way_back(entry, lost, has_down=migration.down is not None)]
        if migration.down is None and migration.kind is FileKind.SQL:
            hint = f"write {migration.label}.down.sql"
            return [Obstacle(Block.NO_WAY_BACK, f"'{migration.path.name}' has no way back", hint, entry.number)]
        return []

    def _gone(self, migration: Migration, entry: Entry) -> list[Dropped]:
        """What a contract has taken away by now: of one that broke off, by the statements that were run."""
        if entry.phase is not Phase.CONTRACT or entry.state is State.REVERTING:
            return []
        if entry.state is State.APPLIED or migration.kind is not FileKind.SQL:
            return list(entry.dropped)
        machine = self.runner.machine
        done = machine.did(script_of(migration.path), entry.job("up"))
        names = names_taken_away(done, from_catalog(machine.connection))
        return [one for one in entry.dropped if (one.what, one.name) in names]


def _no_way_back(entry: Entry, lost: list[Dropped], *, has_down: bool) -> Obstacle:
    if lost:
        names = ", ".join(f"{one.what} {one.name}" for one in lost)
        message = f"'{entry.label}' is a contract that took {names} away: the way goes forward"
        return Obstacle(Block.ROLL_FORWARD, message, "see the plan", entry.number)
    message = f"'{entry.label}' is a contract, and it is done: the way goes forward"
    hint = f"it took no values with it: --force REASON runs {entry.label}.down.sql" if has_down else "see the plan"
    return Obstacle(Block.ROLL_FORWARD, message, hint, entry.number, forcible=has_down)


def _file_gone(entry: Entry) -> Obstacle:
    message = f"'{entry.label}' is {entry.state}, and its file is gone"
    return Obstacle(Block.DELETED, message, "git log --diff-filter=D --name-only; bring it back", entry.number)
