"""``dbsec tls drill``: attack encryption in transit, each refusal for its own reason, each able to go red."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbsec.cli import exits, output
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.cli.tls._grounds import Given, ground_of
from dbsec.cli.tls.rotating import Kind
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from dbsec.evidence import Drill, Observation, Recorder
    from dbsec.tls.matrix import Bench

    Ran = tuple[Drill, Mapping[str, Any]]

_ABOUT = "Attacks on encryption in transit, each between two logins that must succeed."
_WIDE = 160
_MUTABLE_BY = {
    Kind.POSTGRES: "name --admin REF and --data-dir DIR, of a lab",
    Kind.PGBOUNCER: "name --ini FILE and --console REF, of a lab",
    Kind.MARIADB: "name --admin REF, of a lab",
}
_STYLES = {"pass": "green", "fail": "bold red", "error": "red", "skip": "yellow"}


def add(command: typer.Typer) -> None:
    """Add ``drill``."""
    command.command()(drill)


def drill(
    dsn: Annotated[str, typer.Argument(metavar="REF", help="The DSN of a service, as env:NAME or file:PATH.")],
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="DIR", help="The CA's folder (ca.crt, ca.key): attacks need its key.")
    ] = None,
    mtls: Annotated[
        str | None, typer.Option(metavar="REF", help="A login that needs a client certificate, without one.")
    ] = None,
    admin: Annotated[str | None, typer.Option(metavar="REF", help="A superuser, over the network.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The server's files: for revocation, and for --mutate.")
    ] = None,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="The server's log, for reasons told there.")] = None,
    kind: Annotated[Kind, typer.Option("--server", help="What the DSN dials.")] = Kind.POSTGRES,
    ini: Annotated[
        Path | None, typer.Option(metavar="FILE", help="pgbouncer.ini: for PgBouncer's log, and --mutate.")
    ] = None,
    console: Annotated[str | None, typer.Option(metavar="REF", help="A login of PgBouncer's console.")] = None,
    revoked: Annotated[
        Path | None, typer.Option(metavar="FILE", help="NAME.crt of --mtls on MariaDB's list, with NAME.key.")
    ] = None,
    mutate: Annotated[
        bool, typer.Option("--mutate", help="Take each control away in turn, and see its case go red.")
    ] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Let --mutate change the server, and put it back.")] = False,
    evidence_file: Annotated[
        Path | None,
        typer.Option("--evidence", metavar="FILE", help="Record each in a new file, for dbsec report verify."),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="DIR", help="Draw logins that pass and fail, as tls_*.svg.")
    ] = None,
    form: As = Format.TEXT,
) -> None:
    """Attack a server and the clients of a DSN; every refusal must have its machine reason.

    With --admin and --data-dir a revocation list is replaced for some milliseconds, and a role dbsec_drill_* made and
    dropped. --mutate also opens pg_hba.conf for each case in turn: for servers of a lab. Exit code 0: all was refused
    for its own reason; 1: something was let in; 3: a refusal proves nothing, or nothing could be attacked.
    """
    ground = ground_of(kind, Given(dsn, ca, mtls, admin, data_dir, log, ini, console, revoked))
    drills = [*ground.drills]
    if mutate:
        if not ground.mutable:
            raise UsageError("--mutate changes the server", hint=_MUTABLE_BY[kind])
        if not apply:
            print("--mutate would take these controls away one after another, and put each back; add --apply to do it:")
            print("\n".join(f"  {one.name.removeprefix('without its control: ')}" for one in ground.mutations))
            return
        drills += ground.mutations
    with inputs.refusals(), _recorder(evidence_file) as recorder:
        if ground.recover():
            print("what a drill before this one had left changed was put back", file=sys.stderr)
        with output.progress() as progress:
            ran = [(one, _run(one, recorder, progress.step)) for one in drills]
            if svg is not None:
                progress.step("pictures")
                _draw(ground.bench, ran[: len(ground.drills)], svg)
    _tell(ran, form)
    raise typer.Exit(_code(ran))


@contextmanager
def _recorder(file: Path | None) -> Iterator[Recorder | None]:
    if file is None:
        yield None
        return
    from dbsec.cli.home import home
    from dbsec.evidence import Provenance, Recorder, signing_key

    if file.exists():
        raise UsageError(f"'{file}' is there: evidence is not overwritten", hint="name a new file")
    key = signing_key(home() / "keys")
    with Recorder(file, Provenance.here()) as recorder:
        recorder.chapter("transit", title="Encryption in transit", summary=_ABOUT)
        yield recorder
        recorder.seal(key)


def _run(one: Drill, recorder: Recorder | None, step: Callable[[str], None]) -> Mapping[str, Any]:
    """Run a drill; what it raises is an outcome, and never ends the matrix."""
    from dbsec.errors import DbsecError, reason
    from dbsec.evidence import Phase

    step(one.name)
    if recorder is not None:
        return recorder.run(one, chapter="transit", phase=Phase.AFTER)
    try:
        return _line(one.attack())
    except (DbsecError, OSError) as exc:
        return {"outcome": "error", "summary": reason(exc), "facts": {}}


def _line(seen: Observation) -> Mapping[str, Any]:
    return {"outcome": str(seen.outcome), "summary": seen.summary, "facts": dict(seen.facts)}


def _tell(ran: Sequence[Ran], form: Format) -> None:
    if form is Format.JSON:
        told = [
            {"control": one.control.id, "drill": one.name}
            | {name: line[name] for name in ("outcome", "summary", "facts")}
            for one, line in ran
        ]
        output.envelope("tls drill", result={"drills": told})
        return
    from rich.console import Console

    Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE).print(_table(ran))
    counts = {name: sum(str(line["outcome"]) == name for _, line in ran) for name in _STYLES}
    print(", ".join(f"{count} {name}" for name, count in counts.items() if count))


def _table(ran: Sequence[Ran]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("control", "attack", "outcome", "reason")
    for one, line in ran:
        outcome = str(line["outcome"])
        facts = line["facts"]
        reasons = ", ".join(facts.get("seen", ())) or str(line["summary"])
        if "captured_password" in facts:
            reasons += f"; captured password: {facts['captured_password']}"
        table.add_row(one.control.id, Text(one.name), Text(outcome.upper(), _STYLES[outcome]), Text(reasons))
    return table


def _draw(bench: Bench | None, ran: Sequence[Ran], folder: Path) -> None:
    from dbsec.cli.tls import _pictures
    from dbsec.tls.matrix.scenes import scenes

    _pictures.save(folder, "drill", "dbsec tls drill", [_table(ran)], width=_WIDE)
    for scene in scenes(bench) if bench is not None else ():
        _pictures.save(folder, scene.name, scene.title, _pictures.transcript(scene))


def _code(ran: Sequence[Ran]) -> int:
    from dbsec.evidence import Outcome, worst

    outcome = worst(Outcome(str(line["outcome"])) for _, line in ran)
    return {Outcome.PASS: exits.CLEAN, Outcome.FAIL: exits.FINDINGS}.get(outcome, exits.COULD_NOT_TELL)
