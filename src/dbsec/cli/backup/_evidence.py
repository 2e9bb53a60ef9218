"""``--evidence FILE``: a key operation as a line of evidence, in a sealed file of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.evidence import Control, Observation

T = TypeVar("T")

File = Annotated[
    Path | None,
    typer.Option("--evidence", metavar="FILE", help="Record this in a new file; dbsec report verify FILE reads it."),
]


def recorded(
    file: Path | None, control: Control, drill: str, act: Callable[[], T], judge: Callable[[T], Observation]
) -> T:
    """Run an act; with a file, record what ``judge`` says of its result, or that it failed and how, and seal the file.

    Errors: ``UsageError`` where the file is there already: evidence is not overwritten; what ``act`` raises.
    """
    if file is None:
        return act()
    from dbsec.cli.home import home
    from dbsec.evidence import Drill, Phase, Provenance, Recorder, signing_key

    if file.exists():
        raise UsageError(f"'{file}' is there: evidence is not overwritten", hint="name a new file")
    done: list[T] = []
    failures: list[Exception] = []

    def attack() -> Observation:
        try:
            done.append(act())
        except Exception as exc:
            failures.append(exc)
            raise
        return judge(done[0])

    with Recorder(file, Provenance.here()) as recorder:
        recorder.chapter("backup", title="Keys of backups", summary="What was done with the keys, and what it proved.")
        recorder.run(Drill(control, drill, attack), chapter="backup", phase=Phase.AFTER)
        recorder.seal(signing_key(home() / "keys"))
    if failures:
        raise failures[0]
    return done[0]


def control(name: str, title: str, risk: str) -> Control:
    """Make the control that an operation on keys serves."""
    from dbsec.evidence import Control

    return Control(f"BAK-{name}", title, risk, ("NIST SP 800-57 8.3", "NIST SP 800-53 SC-12"))


def facts(**told: Any) -> dict[str, Any]:
    """Keep lists of facts at a length that a report can show."""
    return {name: value[:100] if isinstance(value, list) else value for name, value in told.items()}
