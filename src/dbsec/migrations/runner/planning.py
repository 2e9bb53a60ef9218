"""``dbsec migrate plan``: what ``up`` would run, how, at which cost, and what stands in the way; reads only.

The one thing it writes is the look at the clients, in dbsec's own table, as every command of the runner does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from dbsec.backfill import Job
from dbsec.errors import JournalError
from dbsec.findings import Finding
from dbsec.migrations.effects.model import Effect, LockMode, Task, Work
from dbsec.migrations.names import Name
from dbsec.migrations.reading.parse import once
from dbsec.migrations.runner import disk, judging, ledger, linting, session, standing
from dbsec.migrations.runner.classify import Classified, Kind, bodies_of, classify
from dbsec.migrations.runner.estimate import Cost, Server
from dbsec.migrations.runner.files import FileKind, Migration, script_of
from dbsec.migrations.runner.ledger import State
from dbsec.migrations.runner.obstacle import Block, Obstacle
from dbsec.migrations.runner.releases import Seen
from dbsec.migrations.runner.standing import Standing
from dbsec.migrations.runner.stepping import Machine, runnable
from dbsec.migrations.runner.target import Asked, Target
from dbsec.migrations.runner.words import shown
from dbsec.migrations.schema.catalog import from_catalog
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script
from dbsec.migrations.stats import Stats, snapshot
from dbsec.pg import own


@dataclass(frozen=True, slots=True)
class Planned:
    """One statement, or one backfill: how it would run, the strongest lock on each table, and what it would cost."""

    line: int
    what: str
    kind: str
    locks: tuple[tuple[Name, LockMode], ...]
    why: str
    cost: Cost

    def to_json(self) -> dict[str, Any]:
        locks = [{"table": str(name), "mode": mode.sql} for name, mode in self.locks]
        return {"line": self.line, "statement": self.what, "class": self.kind, "locks": locks, "why": self.why} | {
            "cost": self.cost.to_json()
        }


@dataclass(frozen=True, slots=True)
class PlannedMigration:
    """One migration; ``peak``: its strongest lock."""

    migration: Migration
    statements: tuple[Planned, ...]

    @property
    def cost(self) -> Cost:
        return sum((one.cost for one in self.statements), Cost())

    @property
    def peak(self) -> tuple[Name, LockMode] | None:
        locks = [lock for one in self.statements for lock in one.locks]
        return max(locks, key=lambda lock: lock[1], default=None)


@dataclass(slots=True)
class Plan:
    """All of it. ``free`` None: nobody can tell how much disk is free."""

    migrations: list[PlannedMigration] = field(default_factory=list)
    obstacles: list[Obstacle] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    seen: Seen | None = None
    free: list[disk.Free] | None = None
    needed_wal: int = 0

    @property
    def cost(self) -> Cost:
        return sum((one.cost for one in self.migrations), Cost())

    def costs(self) -> list[Cost]:
        """The cost of each statement."""
        return [statement.cost for one in self.migrations for statement in one.statements]


def plan(target: Target, asked: Asked) -> Plan:
    """Plan what ``up`` would do now. Locks: ACCESS SHARE on catalogs, and for a moment on tables.

    Errors: ``GaveUp`` where the catalog cannot be read; those of ``files.find`` and ``classify``.
    """
    made = Plan()
    with once(), target.connect() as connection:
        installed = (own.installed(connection) or 0) >= ledger.NEEDS
        unwritable = session.unwritable(connection)
        if installed:
            made.seen = judging.look(target, connection)
        connection.execute("SET default_transaction_read_only = on")
        now = standing.of(target.folder, ledger.read(connection))
        todo = standing.before(now.pending, to=asked.to, phase=asked.phase)
        _Planner(target, asked, connection, now, made).plan(todo)
    if unwritable is not None:
        found = Obstacle(Block.READ_ONLY, unwritable.message, unwritable.hint, unknown=True)
        made.obstacles.insert(0, found)
    if not installed:
        hint = "dbsec db install --dsn REF --user ROLE --apply"
        made.obstacles.insert(0, Obstacle(Block.NOT_INSTALLED, "schema 'dbsec' is not installed here", hint))
    return made


def short_of_disk(
    target: Target,
    asked: Asked,
    connection: psycopg.Connection[Any],
    now: Standing,
    scripts: Mapping[Migration, Script | None],
) -> list[Obstacle]:
    """Measure what is about to run, and tell where disk would lack, or that nobody knows."""
    made = Plan()
    by_number = {migration.number: script for migration, script in scripts.items() if script is not None}
    _Planner(target, asked, connection, now, made).measure(list(scripts), by_number, from_catalog(connection))
    return [one for one in made.obstacles if one.block is Block.DISK]


@dataclass
class _Planner:
    target: Target
    asked: Asked
    connection: psycopg.Connection[Any]
    now: Standing
    made: Plan

    def plan(self, todo: Sequence[Migration]) -> None:
        """Plan the migrations, with all that stands in their way."""
        self.made.obstacles += judging.of_folder(self.now, out_of_order=self.asked.out_of_order)
        scripts = {one.number: self._script(one, Machine.left) for one in todo if one.kind is FileKind.SQL}
        schema = from_catalog(self.connection)
        unbegun = [self._script(one, Machine.unbegun) for one in todo if one.kind is FileKind.SQL]
        self._lint(unbegun, copy.deepcopy(schema))
        runnable(todo)
        self.measure(todo, scripts, schema)
        for one in todo:
            self._gate(one)

    def measure(self, todo: Sequence[Migration], scripts: Mapping[int, Script], schema: Schema) -> None:
        """Class and cost of each statement, and the disk that all of them need; ``schema`` is changed."""
        classified = self._classified(list(scripts.values()), schema)
        stats = snapshot(self.connection, 0.0)
        jobs = {one.number: _effect_of(one) for one in todo if one.kind is FileKind.BACKFILL}
        effects = [one.effect for one in classified] + list(jobs.values())
        server = Server.read(self.connection, stats, [task.table for effect in effects for task in effect.work])
        for one in todo:
            if one.number in jobs:
                planned = [_backfill(one, jobs[one.number], server)]
            else:
                parts = [c for c in classified if c.statement.script.path == str(one.path)]
                planned = [_statement(part, server) for part in parts]
                self.made.obstacles += self._blocking(one, parts, stats)
            self.made.migrations.append(PlannedMigration(one, tuple(planned)))
        self._disk(server)

    def _script(self, migration: Migration, part: Callable[[Machine, Script, str], Script]) -> Script:
        script = script_of(migration.path)
        entry = self.now.entries.get(migration.number)
        if entry is None or entry.state is not State.APPLYING:
            return script
        try:
            machine = Machine(self.connection, self.target.connect, self.target.settings.runner)
            return part(machine, script, entry.job("up"))
        except JournalError as exc:  # a runner is at work on it
            message = f"'{migration.label}': {exc.message}"
            found = Obstacle(Block.INTERRUPTED, message, exc.hint, migration.number, unknown=True)
            self.made.obstacles += [] if found in self.made.obstacles else [found]
            return script

    def _lint(self, scripts: list[Script], schema: Schema) -> None:
        if not scripts:
            return
        today, waived = self.target.clock.now().date(), self.target.settings.waivers
        linted = linting.judged(scripts, schema, major=self._major, waived=waived, today=today, begun=self.now.begun)
        self.made.findings += linted.findings
        self.made.obstacles += linted.obstacles()

    def _classified(self, scripts: list[Script], schema: Schema) -> list[Classified]:
        return classify(scripts, schema, major=self._major, bodies=bodies_of(self.connection)) if scripts else []

    def _blocking(self, migration: Migration, parts: Sequence[Classified], stats: Stats) -> Iterator[Obstacle]:
        """What the executor will refuse: work under a lock, on a table that is not small."""
        limits = self.target.settings.runner
        for one in parts:
            sizes = [stats.of(task.table) for task in one.effect.work]
            small = bool(sizes) and all(size is not None and size.bytes <= limits.small_bytes for size in sizes)
            if one.kind is Kind.BLOCKING and not (small or limits.allow_blocking):
                message = f"{one.place}: would block the service while it works: {one.why}"
                hint = "dbsec migrate lint --dsn REF shows the statements to run instead"
                yield Obstacle(Block.BLOCKING, message, hint, migration.number)

    def _gate(self, migration: Migration) -> None:
        if judging.let_through(self.now, migration) or self.made.seen is None:
            return
        found = judging.of_contract(self.target, self.connection, self.now, migration, self.made.seen, thorough=False)
        self.made.obstacles += found

    def _disk(self, server: Server) -> None:
        self.made.free = disk.free(self.connection, self.asked.free_bytes)
        self.made.needed_wal = server.needed_wal(self.made.costs())
        self.made.obstacles += disk.obstacles(self.made.free, self.made.cost.disk, self.made.needed_wal)

    @property
    def _major(self) -> int:
        return self.connection.info.server_version // 10000


def _statement(one: Classified, server: Server) -> Planned:
    cost = server.cost(one.statement, one.effect)
    return Planned(one.statement.line, shown(one.statement), str(one.kind), one.locks, one.why, cost)


def _effect_of(migration: Migration) -> Effect:
    table = Name(*Job.load(migration.path).qualified)
    locks = ((table, LockMode.ROW_EXCLUSIVE),)
    return Effect(locks, (Task(Work.WRITE, table, "every row that it says is filled"),))


def _backfill(migration: Migration, effect: Effect, server: Server) -> Planned:
    job = Job.load(migration.path)
    what = f"{job.table}: batches of {job.batch_rows} rows"
    why = "one transaction a batch, throttled; estimated as if every row were written"
    return Planned(1, what, "backfill", effect.locks, why, server.cost(None, effect))
