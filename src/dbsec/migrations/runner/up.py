"""``dbsec migrate up``: run what waits, one migration after the other, and stop at the first that may not run yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dbsec.errors import DbsecError
from dbsec.findings import Finding, Severity
from dbsec.journal import Edge
from dbsec.migrations.runner import backfilling, checks, judging, ledger, linting, planning, standing
from dbsec.migrations.runner.dropping import taken_away
from dbsec.migrations.runner.files import FileKind, Migration, script_of
from dbsec.migrations.runner.forward import RollForward
from dbsec.migrations.runner.ledger import State
from dbsec.migrations.runner.obstacle import Obstacle
from dbsec.migrations.runner.standing import Standing
from dbsec.migrations.runner.stepping import Did, Machine, runnable
from dbsec.migrations.runner.target import Asked, Target
from dbsec.migrations.schema.catalog import from_catalog
from dbsec.migrations.script import Phase, Script


@dataclass(frozen=True, slots=True)
class Applied:
    """One migration that was run to its end, up or down, and what was run of it now."""

    migration: Migration
    state: State
    did: tuple[Did, ...] = ()


@dataclass(slots=True)
class Outcome:
    """What was run, and what stopped it; ``warnings`` are the linter's. ``forced``: what a reason went past.

    ``forward``: the plan where there is no way back.
    """

    applied: list[Applied] = field(default_factory=list)
    obstacles: list[Obstacle] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    forced: list[Obstacle] = field(default_factory=list)
    forward: RollForward | None = None


def up(target: Target, asked: Asked) -> Outcome:
    """Run the pending migrations in order; an interrupted one goes on at its statement.

    Locks: an advisory one, for one runner a database; else those of each statement. Errors: those of ``Target.machine``
    and ``execute``; what they leave is recorded, and ``resume`` goes on there.
    """
    with target.machine(wait_s=asked.wait_s) as machine:
        return Runner(target, machine, asked).up()


@dataclass
class Runner:
    """One run over one session."""

    target: Target
    machine: Machine
    asked: Asked
    outcome: Outcome = field(default_factory=Outcome)

    def up(self) -> Outcome:
        """Run what waits."""
        now = self.standing()
        todo = standing.before(now.pending, to=self.asked.to, phase=self.asked.phase)
        if not self.refused(None, judging.of_folder(now, out_of_order=self.asked.out_of_order)):
            self.run(now, todo)
        return self.outcome

    def run(self, now: Standing, todo: Sequence[Migration]) -> None:
        """Lint all of ``todo``, then run one after the other until something stands in the way."""
        left = {one: self._unbegun(now, one) if one.kind is FileKind.SQL else None for one in todo}
        scripts = [script for script in left.values() if script is not None]
        if self.refused(None, self._linted(scripts, now)):
            return
        runnable(todo)
        if self.refused(None, self._disk(now, left)):
            return
        for migration in todo:
            if self.refused(migration, self._gate(now, migration)) or not self._apply(migration):
                return

    def standing(self) -> Standing:
        """Read the folder and the ledger."""
        return standing.of(self.target.folder, ledger.read(self.machine.connection))

    def refused(self, migration: Migration | None, obstacles: Sequence[Obstacle]) -> bool:
        """Note what stands in the way; a reason goes past what is forcible, and is recorded with it."""
        if not obstacles:
            return False
        if not self.asked.force.strip() or not all(one.forcible for one in obstacles):
            self.outcome.obstacles += obstacles
            return True
        self.outcome.forced += obstacles
        told = f"{self.asked.force}; past: {'; '.join(one.message for one in obstacles)}"
        number = migration.number if migration else None
        ledger.tell(self.machine.connection, number, "forced", told)
        self.target.progress.step(f"forced: {told}")
        return False

    def _linted(self, scripts: Sequence[Script], now: Standing) -> list[Obstacle]:
        if not scripts:
            return []
        connection = self.machine.connection
        linted = linting.judged(
            scripts,
            from_catalog(connection),
            major=connection.info.server_version // 10000,
            waived=self.target.settings.waivers,
            today=self.target.clock.now().date(),
            begun=now.begun,
        )
        self.outcome.warnings += [one for one in linted.findings if one.severity is not Severity.ERROR]
        return linted.obstacles()

    def _unbegun(self, now: Standing, migration: Migration) -> Script:
        script = script_of(migration.path)
        entry = now.entries.get(migration.number)
        if entry is None or entry.state is not State.APPLYING:
            return script
        return self.machine.unbegun(script, entry.job("up"))

    def _disk(self, now: Standing, left: Mapping[Migration, Script | None]) -> list[Obstacle]:
        found = planning.short_of_disk(self.target, self.asked, self.machine.connection, now, left)
        for one in found:
            if one.unknown:
                self.target.progress.step(f"{one.message}: {one.hint}")
        return [one for one in found if not one.unknown]

    def _gate(self, now: Standing, migration: Migration) -> list[Obstacle]:
        if judging.let_through(now, migration):
            return []
        # read again: a contract of this very run may have dropped what an earlier backfill read
        return judging.of_contract(self.target, self.machine.connection, self.standing(), migration)

    def _apply(self, migration: Migration) -> bool:
        connection, progress = self.machine.connection, self.target.progress
        progress.step(f"{migration.label}: {migration.phase}")
        script = script_of(migration.path) if migration.kind is FileKind.SQL else None
        dropped = taken_away(connection, script, from_catalog(connection)) if script and _ends(migration) else []
        entry = ledger.begin(connection, migration, dropped)
        self.edge(f"{migration.label} applying")
        did: list[Did] = []
        try:
            if script is not None:
                did = self.machine.run(script, entry.job("up"))
                found: list[Obstacle] = []
            else:
                found = backfilling.run(self.target, connection, migration, self.asked.workers)
        except DbsecError as exc:
            self.failed(migration, exc)
            raise
        if self.refused(migration, found):
            return False
        self.edge(f"{migration.label} run")
        if self.refused(migration, self._checked(migration)):  # it stays "applying": whoever goes on checks it again
            ledger.tell(connection, migration.number, ledger.CHECK_FAILED)
            return False
        ledger.move(connection, migration.number, State.APPLIED)
        self.edge(f"{migration.label} applied")
        ledger.tell(connection, migration.number, "applied")
        self.outcome.applied.append(Applied(migration, State.APPLIED, tuple(did)))
        return True

    def edge(self, name: str) -> None:
        """Let a test die between what the journal records and what the ledger does."""
        if self.target.observer is not None:
            self.target.observer(name, Edge.AFTER_RECORD)

    def _checked(self, migration: Migration) -> list[Obstacle]:
        timeout_s = self.target.settings.check_timeout_s
        return checks.obstacles(self.machine.connection, migration, timeout_s=timeout_s)

    def failed(self, migration: Migration, exc: DbsecError) -> None:
        """Record that a migration broke off, as far as the session still can; no text of the server's."""
        connection = self.machine.connection
        if not connection.closed and not connection.broken:
            place, state = getattr(exc, "place", ""), getattr(exc, "sqlstate", "") or ""
            told = " ".join(part for part in (type(exc).__name__, state, place) if part)
            ledger.tell(connection, migration.number, "failed", told)


def _ends(migration: Migration) -> bool:
    return migration.phase is Phase.CONTRACT
