"""Rehearses restores one after another; each is judged, and leaves a proof in the repository."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC
from functools import partial
from typing import Any

import psycopg

from dbsec.backup.drill import accident as accidents
from dbsec.backup.drill import telling
from dbsec.backup.drill.archive import Archive, Choice, Point
from dbsec.backup.drill.arrival import await_point
from dbsec.backup.drill.clone import Place, prove
from dbsec.backup.drill.objectives import Arrival
from dbsec.backup.drill.scenarios import CONTROLS, DoesNotApply, Scenario
from dbsec.backup.drill.telling import Measured
from dbsec.backup.drill.witness import Patience, Witness, take_witness
from dbsec.backup.errors import WrongCluster
from dbsec.backup.restoring import Kind, Target
from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.config import Objectives
from dbsec.errors import DbsecError
from dbsec.evidence import Control, Observation, Outcome
from dbsec.pg import Conninfo
from dbsec.progress import Progress, Silent


@dataclass(frozen=True, slots=True)
class Site:
    """What is rehearsed on. ``tables`` and ``patience``: see ``take_witness``."""

    archive: Archive
    server: Conninfo
    place: Place
    objectives: Objectives
    tables: Sequence[str] = ()
    patience: Patience = field(default_factory=Patience)
    progress: Progress = field(default_factory=Silent)
    clock: Clock = SYSTEM


@dataclass(frozen=True, slots=True)
class Drilled:
    """One rehearsal. ``rpo_s`` and ``rto_s`` None: not measured; ``proof`` is the note that it left, or ""."""

    scenario: Scenario
    seen: Observation
    started_at: str
    seconds: float
    rpo_s: float | None = None
    rto_s: float | None = None
    proof: str = ""

    @property
    def control(self) -> Control:
        return CONTROLS[self.scenario]

    @property
    def outcome(self) -> Outcome:
        return self.seen.outcome


@dataclass(slots=True)
class _Shared:
    """The one witness of the scenarios that restore to it: a lock and a count for all."""

    taken: tuple[Witness, Arrival] | None = None


def rehearse(site: Site, wanted: Sequence[Scenario]) -> Iterator[Drilled]:
    """Run scenarios in order; what one of them raises is its outcome, and the next one follows.

    RPO and RTO are defined in ``objectives.Arrival`` and ``clone.Cloned``.
    """
    shared = _Shared()
    for scenario in wanted:
        site.progress.step(f"drill {scenario}")
        yield _observed(site, scenario, partial(_run, site, scenario, shared))


def _observed(site: Site, scenario: Scenario, act: Callable[[], Measured]) -> Drilled:
    """Run an act and turn what it measured, or what it raised, into an outcome and a proof."""
    began, start = site.clock.now(), site.clock.monotonic()
    measured: Measured | None = None
    try:
        measured = act()
        seen = telling.judged(measured, site.objectives)
    except DoesNotApply as exc:
        seen = Observation(Outcome.SKIP, str(exc))
    except (DbsecError, psycopg.Error, OSError) as exc:
        seen = telling.refused(exc)
    rpo_s, rto_s = (measured.arrival.rpo_s, measured.cloned.rto_s) if measured else (None, None)
    proof = _left(site, telling.proof_of(scenario, seen, measured, site.objectives)) if _told(seen) else ""
    return Drilled(scenario, seen, rfc3339(began), site.clock.monotonic() - start, rpo_s, rto_s, proof)


def _told(seen: Observation) -> bool:
    return seen.outcome is not Outcome.SKIP


def _run(site: Site, scenario: Scenario, shared: _Shared) -> Measured:
    choice = site.archive.choose(scenario)
    facts: dict[str, Any] = dict(choice.facts)
    with ExitStack() as stack:
        if scenario is Scenario.BEFORE_DELETE:
            witness, arrival, facts["deleted"] = _before_delete(site, choice, stack)
            moment = witness.at.astimezone(UTC).isoformat(sep=" ", timespec="microseconds")
            target = Target(Kind.TIME, moment, timeline=witness.timeline)
        else:
            shared.taken = shared.taken or _witnessed(site, choice)
            witness, arrival = shared.taken
            target = Target(Kind.NAME, witness.name, timeline=witness.timeline)
        source = site.archive.source(choice, target)
        cloned = prove(source, witness, site.place, progress=site.progress, clock=site.clock)
        return Measured(cloned, witness, arrival, facts)


def _witnessed(site: Site, choice: Choice) -> tuple[Witness, Arrival]:
    witness = _witness(site, choice, site.tables)
    return witness, _awaited(site, Point(witness.timeline, witness.lsn, witness.created))


def _before_delete(site: Site, choice: Choice, stack: ExitStack) -> tuple[Witness, Arrival, int]:
    """Take the witness, then lose every row of a table, and wait until the repository holds that loss as well.

    A recovery to a time needs a commit after it to stop at: the accident's own.
    """
    made = stack.enter_context(accidents.accident(site.server))
    witness = _witness(site, choice, [*site.tables, made.table] if site.tables else ())
    deleted, lsn = made.happen()
    return witness, _awaited(site, Point(witness.timeline, lsn, site.clock.monotonic())), deleted


def _witness(site: Site, choice: Choice, tables: Sequence[str]) -> Witness:
    """Take it, of the cluster that the backup is of. Errors: ``WrongCluster``."""
    witness = take_witness(site.server, wanted=tables, patience=site.patience, progress=site.progress, clock=site.clock)
    if witness.system != choice.system:
        raise WrongCluster(
            f"backup '{choice.backup}' is of the cluster {choice.system}, and this server is {witness.system}",
            hint="--dsn of the cluster whose backups these are",
        )
    return witness


def _awaited(site: Site, point: Point) -> Arrival:
    return await_point(site.archive, site.server, point, site.objectives, progress=site.progress, clock=site.clock)


def _left(site: Site, told: dict[str, Any]) -> str:
    """Keep the proof; a repository that takes none has failed enough already."""
    now = site.clock.now()
    try:
        return site.archive.leave(now, {**told, "at": rfc3339(now)})
    except DbsecError as exc:
        site.progress.step(f"the proof could not be put: {exc}")
        return ""
