"""What ``dbsec backup drill`` says: a table with target beside measured, JSON, and a line of evidence for each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbsec.cli import exits, output
from dbsec.cli.output import Format
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.backup.drill.rehearsing import Drilled
    from dbsec.config import Objectives

File = Annotated[
    Path | None,
    typer.Option("--evidence", metavar="FILE", help="Record each in a new file; dbsec report verify FILE reads it."),
]
_ABOUT = "A clone was restored to a restore point, and every row compared with what the server held there."
_WIDE = 160  # a pipe has no width, and a table that is folded is read by nobody


@contextmanager
def recording(file: Path | None) -> Iterator[Callable[[Drilled], Drilled]]:
    """Yield what records a rehearsal as it ends; the file is sealed when the block ends. Errors: ``UsageError``."""
    if file is None:
        yield lambda one: one
        return
    from dbsec.cli.home import home
    from dbsec.evidence import Phase, Provenance, Recorder, signing_key

    if file.exists():
        raise UsageError(f"'{file}' is there: evidence is not overwritten", hint="name a new file")
    key = signing_key(home() / "keys")
    with Recorder(file, Provenance.here()) as recorder:

        def record(one: Drilled) -> Drilled:
            facts = one.seen.facts
            recorder.about({name: facts[name] for name in ("system", "database", "server_version") if name in facts})
            recorder.record(
                one.control,
                f"restore drill: {one.scenario}",
                one.seen,
                chapter="backup",
                phase=Phase.AFTER,
                started_at=one.started_at,
                seconds=one.seconds,
            )
            return one

        recorder.chapter("backup", title="Restore drills", summary=_ABOUT)
        yield record
        recorder.seal(key)


def exit_code(done: Sequence[Drilled]) -> int:
    """Fold the outcomes; where nothing could be rehearsed, nothing is told."""
    from dbsec.evidence import Outcome, worst

    return {Outcome.PASS: exits.CLEAN, Outcome.FAIL: exits.FINDINGS}.get(
        worst(one.outcome for one in done), exits.COULD_NOT_TELL
    )


def tell(done: Sequence[Drilled], objectives: Objectives, form: Format) -> None:
    """Print what was rehearsed."""
    if form is Format.JSON:
        told = {"objectives": objectives.model_dump(), "drills": [_shown(one) for one in done]}
        output.envelope("backup drill", result=told)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("scenario", "outcome", "RPO target", "measured", "RTO target", "measured", "rows", "backup")
    for one in done:
        facts = one.seen.facts
        rows = f"{facts['rows']:,}" if "rows" in facts else "-"
        cells = [one.scenario, str(one.outcome).upper(), f"{objectives.rpo_s:g} s", _span(one.rpo_s)]
        cells += [f"{objectives.rto_s:g} s", _span(one.rto_s), rows, str(facts.get("backup", "-"))]
        table.add_row(*(Text(cell) for cell in cells))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE).print(table)
    for one in done:
        print(f"{one.scenario}: {one.seen.summary}")


def _shown(one: Drilled) -> dict[str, Any]:
    return {
        "scenario": str(one.scenario),
        "control": one.control.id,
        "outcome": str(one.outcome),
        "summary": one.seen.summary,
        "rpo_s": one.rpo_s,
        "rto_s": one.rto_s,
        "started_at": one.started_at,
        "seconds": round(one.seconds, 3),
        "proof": one.proof,
        "facts": dict(one.seen.facts),
    }


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
