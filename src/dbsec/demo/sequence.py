"""Runs the chapters in order: attack, harden, attack again, under load, every outcome recorded and sealed."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from dbsec import discovery, files, process
from dbsec.clock import SYSTEM
from dbsec.config import SloSettings
from dbsec.demo import baseline, chapters, impact
from dbsec.demo.chapter import Audience, Chapter
from dbsec.demo.impact import Span
from dbsec.demo.stage import Stage
from dbsec.errors import UsageError
from dbsec.evidence import Phase, Provenance, Recorder, signing_key
from dbsec.lab import lab
from dbsec.lab import load as load_
from dbsec.lab.dataset import Dataset, Scale
from dbsec.lab.deployment import deployment_folder
from dbsec.lab.load import DEFAULT_RATE_PER_S, Load
from dbsec.lab.service import Service
from dbsec.pg import Conninfo, facts
from dbsec.pg.binaries import Source
from dbsec.progress import Progress

EVIDENCE = "evidence.jsonl"
_CLIENT_SETTINGS = ("sslmode", "sslrootcert", "require_auth")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How to run. ``home`` is DBSEC_HOME, ``out`` the report's folder; ``only`` names one chapter."""

    home: Path
    out: Path
    postgres: Source = Source.WHEEL
    scale: Scale = Scale.DEFAULT
    seed: int = 15
    rate_per_s: float = DEFAULT_RATE_PER_S
    keep: bool = False
    only: str = ""
    slo: SloSettings = field(default_factory=SloSettings)
    provenance: Provenance | None = None


def found() -> list[Chapter]:
    """Return every chapter of the folder in its order."""
    return sorted(discovery.constants_in(chapters, "CHAPTER").values(), key=lambda c: (c.order, c.name))


def run(options: Options, *, audience: Audience, progress: Progress) -> Path:
    """Bring everything up, run the chapters, seal the evidence, take everything down again; returns the evidence.

    Errors: ``UsageError`` for a chapter that is not there; ``LabError``. Whatever ends the run, a Ctrl-C too, every
    process is stopped (but with ``keep``) and the logs are copied to ``out/logs``.
    """
    sequence = found()
    if options.only and options.only not in {c.name for c in sequence}:
        raise UsageError(f"no chapter '{options.only}'", hint=f"choose one of: {', '.join(c.name for c in sequence)}")
    _check(options.out)
    ended = ExitStack()
    try:
        _run_all(sequence, options, audience, progress, ended)
    finally:
        with process.undisturbed():  # a second Ctrl-C must not leave servers behind
            ended.close()
    return options.out / EVIDENCE


def _run_all(
    sequence: Sequence[Chapter], options: Options, audience: Audience, progress: Progress, ended: ExitStack
) -> None:
    plan = lab.Plan(options.home / "demo", options.home / "programs", options.postgres, profile=baseline.profile)
    up = _bring_up(plan, options.out, progress)
    if not options.keep:
        ended.callback(up.down)
    ended.callback(_copy_logs, up.folder / "logs", options.out / "logs")
    _prepare(options.out)
    audience.lab(_banner(up))
    recorder = ended.enter_context(Recorder(options.out / EVIDENCE, options.provenance or Provenance.here()))
    stage = Stage(up, deployment_folder(), recorder, audience, progress, baseline.logins(up))
    ended.callback(stage.close)
    stage.dataset = dataset = baseline.furnish(stage, options.scale, seed=options.seed)
    with stage.admin() as connection:
        recorder.about(facts.server(connection).to_json())
    _run_chapters(stage, sequence, dataset, options, ended)
    recorder.seal(signing_key(options.home / "keys"))
    _tell_way_in(up, stage.login("admin"))


def _bring_up(plan: lab.Plan, out: Path, progress: Progress) -> lab.Lab:
    """Start the lab; where that is interrupted, keep its logs and nothing else."""
    try:
        return lab.up(plan, progress=progress)
    except KeyboardInterrupt:
        with process.undisturbed():
            _prepare(out)
            _copy_logs(plan.folder / "logs", out / "logs")
            lab.down(plan.folder)
        raise


def _run_chapters(
    stage: Stage, sequence: Sequence[Chapter], dataset: Dataset, options: Options, ended: ExitStack
) -> None:
    """Start service and load where they are due, run each chapter, and judge the service in the end."""
    spans: list[Span] = []
    wanted = [chapter for chapter in sequence if options.only in ("", chapter.name)]
    for chapter in sequence:
        early = [later for later in wanted if later.before == chapter.name]
        if chapter in wanted or early:
            _serve(stage, dataset, options, ended)
        if chapter not in wanted:
            for later in early:
                _open(stage, later)
                _attack(stage, later, Phase.BEFORE)
            stage.progress.step(f"chapter {chapter.name}: applied without its attacks")
            list(chapter.harden(stage))
            continue
        spans += _perform(stage, chapter, early)
        if options.only:
            break
    if stage.load is not None:
        stage.load.stop()
        impact.record(stage.recorder, stage.load.samples(), spans, options.slo, stage.audience)


def _serve(stage: Stage, dataset: Dataset, options: Options, ended: ExitStack) -> None:
    """Start the service and its load, once."""
    if stage.load is None:
        stage.service = Service.start(stage.lab.site, stage.login("service"))
        stage.progress.step(f"the service runs as {stage.service.account}, with {options.rate_per_s:g} requests/s")
        stage.load = _start_load(stage, dataset, options)
        ended.callback(process.stop, stage.load.process)


def _open(stage: Stage, chapter: Chapter) -> None:
    stage.recorder.chapter(chapter.name, title=chapter.title, summary=chapter.summary)
    stage.audience.chapter(chapter)


def _perform(stage: Stage, chapter: Chapter, early: Sequence[Chapter] = ()) -> list[Span]:
    """Run one chapter: observe, attack, harden, attack again; ``early`` are later ones that attack before it does."""
    recorder, audience = stage.recorder, stage.audience
    if not chapter.before:
        _open(stage, chapter)
    spans: list[Span] = []

    def span(kind: str, began: datetime) -> None:
        spans.append(Span(chapter.name, kind, began, SYSTEM.now()))

    began = SYSTEM.now()
    for control, name, seen in chapter.observe(stage):
        audience.line(recorder.record(control, name, seen, chapter=chapter.name, phase=Phase.BASELINE))
    drills = chapter.drills(stage)
    if not chapter.before:
        _attack(stage, chapter, Phase.BEFORE)
    for later in early:
        _open(stage, later)
        _attack(stage, later, Phase.BEFORE)
    span("before", began)
    if drills:
        audience.phase("harden")
        began = SYSTEM.now()
        for control, name, seen in chapter.harden(stage):
            audience.line(recorder.record(control, name, seen, chapter=chapter.name, phase=Phase.DURING))
        span("apply", began)
        began = SYSTEM.now()
        _attack(stage, chapter, Phase.AFTER)
        span("after", began)
    audience.finished(chapter)
    return spans


def _attack(stage: Stage, chapter: Chapter, phase: Phase) -> None:
    drills = chapter.drills(stage)
    if drills:
        stage.audience.phase(f"attack {phase}")
    for drill in drills:
        stage.audience.line(stage.recorder.run(drill, chapter=chapter.name, phase=phase))


def _start_load(stage: Stage, dataset: Dataset, options: Options) -> Load:
    if stage.service is None:
        raise UsageError("there is no service to load")
    plan = load_.Plan.of(dataset, stage.service.base_url, rate_per_s=options.rate_per_s)
    return Load.start(plan, stage.lab.folder, env=stage.lab.site.mark)


def _banner(up: lab.Lab) -> list[str]:
    servers = ", ".join(f"{s.name} {s.version}" for s in up.site.state.servers.values())
    return [servers, f"run as {up.site.account.name} in {up.folder}", "lab binaries and keys: not for production"]


def _tell_way_in(up: lab.Lab, admin: Conninfo) -> None:
    """Let ``lab env`` of a kept lab say how the superuser gets in now, which is not how he did at the start."""
    how = {f"PG{name.replace('_', '').upper()}": v for name, v in admin.params.items() if name in _CLIENT_SETTINGS}
    up.site.state.tell(postgres={**up.site.state.facts["postgres"], "environment": how})


def _check(out: Path) -> None:
    """Look whether a report can be written, and change nothing that is there.

    Errors: ``UsageError`` for a folder that holds something else than a report, or that cannot be written.
    """
    try:
        files.make_folder(out, mode=0o700)
        if any(out.iterdir()) and not (out / EVIDENCE).exists():
            raise UsageError(f"'{out}' holds something else than a report of dbsec", hint="choose another --out")
        if not os.access(out, os.W_OK | os.X_OK) or not os.access(out.parent, os.W_OK | os.X_OK):
            raise UsageError(f"cannot write to '{out}'", hint="choose another --out")
    except OSError as exc:
        raise UsageError(f"cannot write to '{out}': {exc.strerror}", hint="choose another --out") from exc


def _prepare(out: Path) -> None:
    """Make an empty report folder; evidence of an earlier run is kept beside it, under the time of its end."""
    evidence = out / EVIDENCE
    if evidence.exists() and evidence.stat().st_size:
        ended_at = datetime.fromtimestamp(evidence.stat().st_mtime, UTC)
        out.rename(out.with_name(f"{out.name}.{ended_at:%Y%m%dT%H%M%SZ}"))
    for name in ("logs", "screens"):
        shutil.rmtree(out / name, ignore_errors=True)
        files.make_folder(out / name, mode=0o700)
    evidence.write_bytes(b"")


def _copy_logs(logs: Path, out: Path) -> None:
    """Copy the regular files; a link that an account of the lab has planted is left alone."""
    for log in sorted(logs.glob("*.log")):
        try:
            with os.fdopen(os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as source:
                if stat.S_ISREG(os.fstat(source.fileno()).st_mode):
                    files.write_atomic(out / log.name, source.read())
        except OSError as exc:
            _LOG.warning("log '%s' is not copied: %s", log, exc.strerror)
