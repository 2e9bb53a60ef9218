"""Backfills: walk a live table in batches that resume; pause, resume or abort them from another terminal; verify."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbsec.cli import exits, output
from dbsec.cli.backfill import verifying
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format

if TYPE_CHECKING:
    from dbsec.backfill.state import Status

COMMAND = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)
verifying.add(COMMAND)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The job: NNN_name.toml; its name is the file's.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The job's name: its file's, without .toml.")]
Dsn = Annotated[str, typer.Option("--dsn", metavar="REF", help="The server, as env:NAME or file:PATH of its DSN.")]
Settings = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="dbsec.toml with [migrations.backfill].")
]


@COMMAND.command()
def run(
    file: File,
    dsn: Dsn,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Sessions that take batches; other hosts may help.")] = 1,
    config: Settings = None,
    form: As = Format.TEXT,
) -> None:
    """Begin a backfill, go on with one, or help one that another host runs; it waits while the service suffers.

    Exit code 0: done; 2: a job that cannot be; 3: aborted, or stopped by an error; the same command goes on.
    """
    from dbsec import backfill
    from dbsec.backfill import limits
    from dbsec.backfill.throttle import Throttle
    from dbsec.config import load
    from dbsec.pg import connect

    sys.path.insert(0, str(Path.cwd()))  # a job's module:function is found as an application's is
    job = backfill.Job.load(file)
    opened = partial(connect, inputs.conninfo_of(dsn))
    default = Path("dbsec.toml")
    settings = limits.of_config(load(config or (default if default.exists() else None)))
    with ExitStack() as stack:
        stack.enter_context(inputs.refusals())
        progress = stack.enter_context(output.progress())
        throttle = stack.enter_context(Throttle(settings, opened, table=job.table))
        done = backfill.run(opened, job, workers=workers, throttle=throttle, progress=progress)
    _tell("run", done.status, form, seconds=round(done.seconds, 1), throttled_s=round(done.throttled_s, 1))
    if done.hint:
        print(f"dbsec: {done.hint}", file=sys.stderr)
    if done.state is not backfill.State.DONE:
        raise typer.Exit(exits.COULD_NOT_TELL)


@COMMAND.command()
def status(
    dsn: Dsn,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One job; without it, all.")] = None,
    form: As = Format.TEXT,
) -> None:
    """Tell how far backfills are, on all hosts."""
    from dbsec import backfill
    from dbsec.pg import own

    with inputs.connected(dsn) as connection:
        own.require(connection)
        found = [backfill.status(connection, name)] if name is not None else backfill.statuses(connection)
    if form is Format.JSON:
        output.envelope("backfill status", result=[_shown(one) for one in found])
        return
    for one in found:
        print(_line(one))


@COMMAND.command()
def pause(name: Name, dsn: Dsn, form: As = Format.TEXT) -> None:
    """Let the workers of a backfill wait; when this returns, no batch is under way."""
    from dbsec import backfill

    _move("pause", backfill.pause, name, dsn, form)


@COMMAND.command()
def resume(name: Name, dsn: Dsn, form: As = Format.TEXT) -> None:
    """Let a paused backfill go on, or make an aborted one ready to be run again."""
    from dbsec import backfill

    _move("resume", backfill.resume, name, dsn, form)


@COMMAND.command()
def abort(name: Name, dsn: Dsn, form: As = Format.TEXT) -> None:
    """Make the workers of a backfill leave; what they did stays, and when this returns no batch is under way."""
    from dbsec import backfill

    _move("abort", backfill.abort, name, dsn, form)


@COMMAND.command()
def forget(
    name: Name,
    dsn: Dsn,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without it, only tell what would be lost.")] = False,
    form: As = Format.TEXT,
) -> None:
    """Delete what is known of a backfill that does not run, so that its name is free; no row of yours is touched."""
    from dbsec import backfill
    from dbsec.pg import own

    with inputs.connected(dsn) as connection:
        own.require(connection)
        before = backfill.status(connection, name)
        if apply:
            backfill.forget(connection, name)
    _tell("forget", before, form, forgotten=apply)
    if not apply:
        print("dbsec: nothing was deleted\n  try: the same with --apply", file=sys.stderr)


def _move(command: str, move: Callable[[Any, str], None], name: str, dsn: str, form: Format) -> None:
    from dbsec import backfill
    from dbsec.pg import own

    with inputs.connected(dsn) as connection:
        own.require(connection)
        move(connection, name)
        found = backfill.status(connection, name)
    _tell(command, found, form)


def _tell(command: str, status: Status, form: Format, **more: Any) -> None:
    if form is Format.JSON:
        output.envelope(f"backfill {command}", result={**_shown(status), **more})
    else:
        print(_line(status))


def _shown(status: Status) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(status), "eta_s": status.eta_s}


def _line(status: Status) -> str:
    eta = f", {_span(status.eta_s)} left at {status.rate:,.0f} rows/s" if status.eta_s is not None else ""
    verified = ", verified" if status.verified_at else ""
    return (
        f"{status.name}: {status.state}{verified}; {status.visited:,} rows of about {status.estimate:,} visited,"
        f" {status.changed:,} written, range {status.ranges_done}/{status.ranges}{eta}"
    )


def _span(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {round(seconds) % 60:02} s"
