"""Bring everything up, attack it, harden it, attack it again, and write the report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dbsec import process, report
from dbsec.cli import exits, output
from dbsec.cli.home import home
from dbsec.cli.output import Format
from dbsec.cli.stage_view import StageView
from dbsec.config import load
from dbsec.demo import Options, run
from dbsec.errors import DbsecError, ProgramError
from dbsec.evidence import Outcome, Provenance, load_public_key, verify
from dbsec.lab.dataset import Scale
from dbsec.lab.deployment import deployment_folder
from dbsec.pg.binaries import Source
from dbsec.progress import Progress
from dbsec.report import Built, screens, verdict

_EXITS = {Outcome.PASS: exits.CLEAN, Outcome.FAIL: exits.FINDINGS}


def demo(
    scale: Annotated[Scale, typer.Option(help="How much data.")] = Scale.DEFAULT,
    postgres: Annotated[Source, typer.Option(help="wheel (17), the newest of the system, or pg0 (18)")] = Source.WHEEL,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("dbsec-report"),
    chapter: Annotated[str, typer.Option(help="Apply its predecessors without load, and run this one.")] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab up.")] = False,
    seed: Annotated[int, typer.Option(help="Of the data and the load.")] = 15,
    ticket: Annotated[str, typer.Option(help="Written into every line of the evidence.")] = "",
    config: Annotated[Path | None, typer.Option(help="Its [slo] judges; by default dbsec.toml here.")] = None,
    form: Annotated[Format, typer.Option("--format", help="text or json")] = Format.TEXT,
) -> None:
    """Exit 0 only where every control holds after hardening and every attack had succeeded before it."""
    here = Path("dbsec.toml")
    settings = load(config or (here if here.exists() else None))
    given = {"scale": scale, "postgres": postgres, "seed": seed, "config": settings.model_dump(mode="json")}
    provenance = Provenance.here(revision=_revision(), config=given, ticket=ticket)
    options = Options(
        home(), out.absolute(), postgres, scale, seed, keep=keep, only=chapter, slo=settings.slo, provenance=provenance
    )
    view = StageView(sys.stderr, options.out / "screens")
    with view.progress() as progress:
        evidence = _perform(options, view, progress)
        built = _report(evidence, options.out, progress)
    _tell(built, evidence, options, form)
    told = verdict.overall(built.report)
    raise typer.Exit(exits.CLEAN if not built.report.totals.controls else _EXITS.get(told, exits.COULD_NOT_TELL))


def _perform(options: Options, view: StageView, progress: Progress) -> Path:
    """Run the sequence; where it does not end, show what was seen so far and where to look."""
    try:
        return run(options, audience=view, progress=progress)
    except (KeyboardInterrupt, DbsecError) as exc:
        evidence = options.out / "evidence.jsonl"
        if evidence.exists() and evidence.stat().st_size:
            report.build(evidence, options.out, progress=progress)
        if isinstance(exc, DbsecError):
            raise
        left = "the lab is up: dbsec lab status --name demo" if options.keep else "everything was taken down"
        print(f"\ndbsec: stopped, {left}\n  look at: {options.out}", file=sys.stderr)
        raise typer.Exit(exits.INTERRUPTED) from None


def _report(evidence: Path, out: Path, progress: Progress) -> Built:
    progress.step("writing the report")
    built = report.build(evidence, out, progress=progress)
    progress.step(screens.take(out / "index.html", out / "screens").summary)
    return built


def _tell(built: Built, evidence: Path, options: Options, form: Format) -> None:
    key = options.home / "keys" / "evidence.pub"
    verified = verify(evidence, load_public_key(key)).summary
    headline, lead = verdict.headline(built.report), verdict.lead(built.report)
    if form is Format.JSON:
        result = {
            "verdict": verdict.overall(built.report),
            "headline": headline,
            "lead": lead,
            "evidence": str(evidence),
            "verified": verified,
            "public_key": str(key),
            "paths": [str(path) for path in built.paths],
        }
        output.envelope("demo", result=result)
        return
    print(headline)
    if lead:
        print(lead)
    print(f"{verified}\n  check again: dbsec report verify {options.out} --public-key {key}")
    print(f"report: {options.out / 'index.html'}")
    if options.keep:
        print("the lab is up: dbsec lab env --name demo; dbsec lab down --name demo")


def _revision() -> str:
    """Name the commit of the deployment that runs, ``-dirty`` where files differ; empty where it is no checkout."""
    folder = deployment_folder()
    try:
        top = process.run(["git", "rev-parse", "--show-toplevel"], cwd=folder).strip()
        described = process.run(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=folder)
    except ProgramError:
        return ""
    return described.strip() if Path(top).resolve() == folder.resolve() else ""


COMMAND = typer.Typer(add_completion=False, rich_markup_mode=None)
COMMAND.command(help=f"{__doc__}\n\n{demo.__doc__}")(demo)
