"""``dbsec backup verify``: read the repository and prove it; any doubt is told by the exit code."""

from __future__ import annotations

import re
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.backup import _options as options
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format

if TYPE_CHECKING:
    from dbsec.backup.verifying import Verified


def add(command: typer.Typer) -> None:
    """Add ``verify``."""
    command.command()(verify)


def verify(
    config: options.File = None,
    state: Annotated[
        Path | None, typer.Option("--state", metavar="FILE", help="Remember here what was verified; read the rest.")
    ] = None,
    again_after: Annotated[
        str, typer.Option("--again-after", metavar="SPAN", help="With --state: read each object again after this.")
    ] = "30d",
    silent_for: Annotated[
        str,
        typer.Option("--silent-for", metavar="SPAN", help="How old the newest WAL may be: an idle server's is old."),
    ] = "24h",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Threads that read and open objects.")] = 4,
    form: As = Format.TEXT,
) -> None:
    """Open every key and object, and look for holes: in chains, in WAL, in the recovery window of [objectives].

    With --state what the store lists unchanged is not read again so soon: bits that a disk has lost since then are not
    seen until --again-after has passed. Exit code 0: no doubt; 1: something is wrong; 2: wrong usage; 3: not known.
    """
    from dbsec.backup import settings as tables
    from dbsec.backup import verified, verifying

    loaded = options.config_of(config)
    settings = tables.of(loaded)
    again, silence = options.span("--again-after", again_after), options.span("--silent-for", silent_for)
    promised = timedelta(days=loaded.objectives.recovery_window_days)
    with inputs.refusals(), output.progress() as progress, ExitStack() as stack:
        repository = options.repository(settings)
        ledger = None
        if state is not None:
            store = re.split(r"[?]", settings.store, maxsplit=1)[0]
            ledger = stack.enter_context(
                verified.opened(state, system=repository.system, store=store, again_after=again)
            )
        done = verifying.verify(
            repository,
            settings.retention,
            promised=promised,
            ledger=ledger,
            silent_for=silence,
            workers=workers,
            progress=progress,
        )
    _tell(done, form)
    if not done.doubtless:
        raise typer.Exit(exits.FINDINGS if done.findings else exits.COULD_NOT_TELL)


def _tell(done: Verified, form: Format) -> None:
    rate = done.stored_bytes / 1e6 / max(done.seconds, 1e-9)
    counts = {
        "objects": done.objects,
        "skipped": done.skipped,
        "untold": done.untold,
        "shredded": done.shredded,
        "keys": done.keys,
        "stored_bytes": done.stored_bytes,
        "seconds": round(done.seconds, 3),
    }
    if form is Format.JSON:
        findings = [one.to_json() for one in done.findings]
        result = {**counts, "notes": done.notes, "unknown": done.unknown}
        output.envelope("backup verify", findings=findings, result=result)
        return
    for one in done.findings:
        print(f"{one.target}: {one.severity} {one.code} {one.name}: {one.message}")
        if one.fix:
            print(f"    try: {one.fix}")
    for text in done.unknown:
        print(f"could not tell: {text}")
    for text in done.notes:
        print(f"note: {text}")
    left = f", {done.skipped:,} left out: verified a short time ago, and unchanged" if done.skipped else ""
    ended = f", {done.shredded:,} of shredded months" if done.shredded else ""
    print(f"{done.keys:,} keys and {done.objects:,} objects open ({rate:,.0f} MB/s){left}{ended}")
    more = f", {done.untold:,} more of these" if done.untold else ""
    print("no doubt" if done.doubtless else f"{len(done.findings):,} findings, {len(done.unknown):,} not known{more}")
