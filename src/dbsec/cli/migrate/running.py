"""``dbsec migrate plan | up | down | status | resume | watch``: run a release without a queue before the service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.config import Config
    from dbsec.migrations.runner.target import Asked, Connect, Target, Throttled

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)i?B?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class Upto(StrEnum):
    """The last phase that ``up`` goes to."""

    EXPAND = "expand"
    BACKFILL = "backfill"
    CONTRACT = "contract"


Folder = Annotated[
    Path | None, typer.Argument(metavar="[FOLDER]", help="The migrations; by default [migrations] folder.")
]
Ref = Annotated[str, typer.Option("--dsn", metavar="REF", help="The database, as env:NAME or file:PATH of its DSN.")]
Settings = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="By default dbsec.toml here.")]
Release = Annotated[str, typer.Option(metavar="NAME", help="The new release; by default [migrations] release.")]
To = Annotated[int | None, typer.Option("--to", metavar="N", help="The last number to run.")]
Phase = Annotated[Upto | None, typer.Option(help="Stop before the first file of a later phase.")]
Wait = Annotated[str, typer.Option(help="How long to wait for another runner: 30s, 10min.")]
Force = Annotated[str, typer.Option(metavar="REASON", help="Go past what may be forced; the reason is recorded.")]
Order = Annotated[bool, typer.Option("--out-of-order", help="Run files added before one that is applied.")]
Disk = Annotated[str, typer.Option("--free-disk", metavar="SIZE", help="Free disk of the server, as 20GB.")]


def add(command: typer.Typer) -> None:
    """Add the commands of the runner."""
    for one in (plan, up, down, resume, status, watch):
        command.command()(one)


def plan(
    dsn: Ref,
    folder: Folder = None,
    config: Settings = None,
    release: Release = "",
    to: To = None,
    phase: Phase = None,
    out_of_order: Order = False,
    free_disk: Disk = "",
    form: As = Format.TEXT,
) -> None:
    """Tell what `up` would run, how, at which cost, and what stands in the way; changes nothing.

    Exit code 0: nothing is in the way; 1: something is; 2: wrong usage; 3: could not tell.
    """
    from dbsec.cli.migrate import run_view
    from dbsec.migrations.runner import planning

    asked = _asked(to=to, phase=phase, out_of_order=out_of_order, free_disk=free_disk)
    with _target(dsn, folder, config, release) as target:
        made = planning.plan(target, asked)
    raise typer.Exit(run_view.plan(made, as_json=form is Format.JSON))


def up(
    dsn: Ref,
    folder: Folder = None,
    config: Settings = None,
    release: Release = "",
    to: To = None,
    phase: Phase = None,
    wait: Wait = "5s",
    force: Force = "",
    out_of_order: Order = False,
    free_disk: Disk = "",
    workers: Annotated[int, typer.Option(min=1, help="Of a backfill.")] = 1,
    canary: Annotated[str, typer.Option(metavar="REF", help="A staging clone that is migrated first.")] = "",
    form: As = Format.TEXT,
) -> None:
    """Run the migrations that wait, statement by statement; what was interrupted goes on where it stopped.

    Exit code 0: all were run; 1: something stands in the way of the next; 2: wrong usage; 3: could not tell, or it
    broke off.
    """
    from dbsec.cli.migrate import run_view
    from dbsec.migrations.runner import canary as rehearsal
    from dbsec.migrations.runner import up as forwards

    asked = _asked(
        to=to, phase=phase, wait=wait, force=force, out_of_order=out_of_order, free_disk=free_disk, workers=workers
    )
    as_json = form is Format.JSON
    with _target(dsn, folder, config, release) as target:
        if canary:
            rehearsed = rehearsal.rehearse(target, _connects(canary), asked)
            if rehearsed.obstacles:
                raise typer.Exit(run_view.outcome("migrate up", rehearsed, as_json=as_json, canary=True))
        done = forwards.up(target, asked)
    raise typer.Exit(run_view.outcome("migrate up", done, as_json=as_json))


def down(
    dsn: Ref,
    folder: Folder = None,
    config: Settings = None,
    to: Annotated[int | None, typer.Option("--to", metavar="N", help="The last number that stays applied.")] = None,
    wait: Wait = "5s",
    force: Force = "",
    form: As = Format.TEXT,
) -> None:
    """Go back by one migration, or to a number; after a contract, tell the way forward instead (exit code 1)."""
    from dbsec.cli.migrate import run_view
    from dbsec.migrations.runner import down as backwards

    with _target(dsn, folder, config, "") as target:
        done = backwards.down(target, _asked(to=to, wait=wait, force=force))
    raise typer.Exit(run_view.outcome("migrate down", done, as_json=form is Format.JSON))


def resume(
    dsn: Ref,
    folder: Folder = None,
    config: Settings = None,
    release: Release = "",
    wait: Wait = "5s",
    free_disk: Disk = "",
    workers: Annotated[int, typer.Option(min=1, help="Of a backfill.")] = 1,
    form: As = Format.TEXT,
) -> None:
    """End the migration that was interrupted, at the statement where it stopped, up or down; then stop."""
    from dbsec.cli.migrate import run_view
    from dbsec.migrations.runner import down as backwards

    with _target(dsn, folder, config, release) as target:
        done = backwards.resume(target, _asked(wait=wait, free_disk=free_disk, workers=workers))
    raise typer.Exit(run_view.outcome("migrate resume", done, as_json=form is Format.JSON))


def status(
    dsn: Ref, folder: Folder = None, config: Settings = None, release: Release = "", form: As = Format.TEXT
) -> None:
    """Tell what is applied, what waits, who runs, and which releases are connected; looks at the clients once."""
    from dbsec.cli.migrate import run_view
    from dbsec.migrations.runner import status as standing

    with _target(dsn, folder, config, release) as target:
        found = standing.status(target)
    raise typer.Exit(run_view.status(found, as_json=form is Format.JSON))


def watch(
    dsn: Ref,
    config: Settings = None,
    every: Annotated[str, typer.Option(help="Time between two looks: 1min.")] = "1min",
    during: Annotated[str, typer.Option("--for", help="How long; by default until it is stopped.")] = "",
) -> None:
    """Look at the clients again and again, so that a contract can know that no old release was there."""
    from dbsec.migrations.runner import watching

    spans = inputs.span_s(every), inputs.span_s(during) if during else None
    with _target(dsn, None, config, "", need_folder=False) as target:
        watching.watch(target, every_s=spans[0], for_s=spans[1])


@contextmanager
def _target(
    dsn: str, folder: Path | None, config: Path | None, release: str, *, need_folder: bool = True
) -> Iterator[Target]:
    """Build what a run is about from options, files and the environment; a Ctrl-C ends it as a kill would."""
    inputs.need_parser()
    from dbsec.config import load
    from dbsec.migrations import settings
    from dbsec.migrations.runner.target import Target

    here = Path("dbsec.toml")
    loaded = load(config or (here if here.exists() else None))
    own = settings.of(loaded)
    where = folder or Path(own.folder)
    if need_folder and not where.is_dir():
        raise UsageError(f"there is no folder '{where}'", hint="name the folder of the migrations")
    connect = _connects(dsn)
    with output.progress() as progress, inputs.refusals():
        others = {reference: _connects(reference) for reference in own.observed}
        throttled = _throttled(loaded, connect)
        try:
            yield Target(where, connect, own, release, others, throttled, progress=progress)
        except KeyboardInterrupt:
            progress.step("interrupted: 'dbsec migrate resume' goes on at the statement")
            raise typer.Exit(exits.INTERRUPTED) from None


def _connects(reference: str) -> Connect:
    """Read a reference once, and return what opens connections with it."""
    from dbsec.pg import connect

    conninfo = inputs.conninfo_of(reference)
    return lambda: connect(conninfo)


def _throttled(config: Config, connect: Connect) -> Throttled:
    """Make what holds a backfill back, by [migrations.backfill]."""
    from dbsec.backfill import limits
    from dbsec.backfill.throttle import Throttle

    found = limits.of_config(config)
    return lambda job: Throttle(found, connect, table=job.table)


def _asked(*, wait: str = "0s", free_disk: str = "", phase: Upto | None = None, **rest: object) -> Asked:
    inputs.need_parser()
    from dbsec.migrations.runner.target import Asked
    from dbsec.migrations.script import Phase as Step

    free = _size(free_disk) if free_disk else None
    return Asked(wait_s=inputs.span_s(wait), free_bytes=free, phase=Step(phase) if phase else None, **rest)  # type: ignore[arg-type]


def _size(given: str) -> int:
    match = _SIZE.fullmatch(given.strip())
    if match is None:
        raise UsageError(f"'{given}' is no size", hint="write 20GB, 512MB or a number of bytes")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])
