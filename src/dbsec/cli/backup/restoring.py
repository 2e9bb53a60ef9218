"""``dbsec backup restore``: a data folder that recovers to a point in time when it is started."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import output
from dbsec.cli.backup import _options as options
from dbsec.cli.backup import _restored as view
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.backup.restoring import Restored
    from dbsec.process import Account


class Action(StrEnum):
    """What the server does at its target."""

    PROMOTE = "promote"
    PAUSE = "pause"
    SHUTDOWN = "shutdown"


def add(command: typer.Typer) -> None:
    """Add ``restore``."""
    command.command()(restore)


def restore(
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The new data folder: absent or empty.")],
    config: options.File = None,
    time: Annotated[
        str | None, typer.Option(metavar="TIME", help="To the last commit until then: 2026-11-24T10:15:00+01:00.")
    ] = None,
    lsn: Annotated[str | None, typer.Option(metavar="X/X", help="To a position in the WAL.")] = None,
    xid: Annotated[str | None, typer.Option(metavar="ID", help="To the end of a transaction.")] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="To a restore point.")] = None,
    latest: Annotated[bool, typer.Option("--latest", help="To the end of the WAL: what is done without a target.")] = (
        False
    ),
    immediate: Annotated[bool, typer.Option("--immediate", help="To the end of the base backup.")] = False,
    exclusive: Annotated[bool, typer.Option("--exclusive", help="Stop before a time, LSN or xid.")] = False,
    timeline: Annotated[int | None, typer.Option(metavar="N", help="By default the newest.")] = None,
    action: Annotated[Action, typer.Option(help="What the server does there.")] = Action.PROMOTE,
    backup: Annotated[str, typer.Option(metavar="ID", help="Start from this one; else from the newest before.")] = "",
    tablespace_mapping: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="Where a tablespace goes; several may be told.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Of the copy; else its original's.")] = None,
    listen: Annotated[str, typer.Option(metavar="ADDRESS", help="Where the copy listens.")] = "localhost",
    owner: Annotated[str | None, typer.Option(metavar="NAME", help="The server's account; root must name it.")] = None,
    bindir: Annotated[Path | None, typer.Option(metavar="DIR", help="PostgreSQL's programs, of its major.")] = None,
    socket: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The copy gets its WAL from 'dbsec backup wal archiver' there.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Threads that read and open objects.")] = 3,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not run pg_verifybackup over the files.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Empty what a restore to DIR has left that broke off.")] = (
        False
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be restored, and write nothing.")] = False,
    form: As = Format.TEXT,
) -> None:
    """Restore the cluster of the repository to DIR, so that it recovers to a target when it is started there.

    The copy is kept apart from its original: it archives nothing, streams from nobody, and listens here only. What
    breaks off leaves a folder that does not start. Exit code 0: restored; 1: the repository is damaged; 2: wrong usage,
    or a target that cannot be reached; 3: not restored.
    """
    from dbsec.backup import restoring
    from dbsec.backup.restoring import programs, rates

    told = {"time": time, "lsn": lsn, "xid": xid, "name": name, "latest": latest, "immediate": immediate}
    target = restoring.parse_target(told, exclusive=exclusive, timeline=timeline, action=action.value)
    _say_zone(time)
    who = options.owner(owner, to)
    settings = options.settings_of(config)
    note = _state_folder() / "restore-rates.json"
    with inputs.refusals(), output.progress() as progress:
        repository = options.repository(settings)
        wanted = restoring.plan(repository, target, backup=backup, rates=rates.read_rates(note))
        wal = _Wal(to.absolute(), config, socket, who)
        if dry_run:
            view.tell_plan(wanted, form)
            return
        if form is Format.TEXT:
            view.say_plan(wanted)
        done = restoring.restore(
            repository,
            wanted,
            to,
            restore_command=wal.command(),
            progress=progress,
            binaries=programs.find_programs(wanted.backup.server_version, bindir),
            port=port,
            listen=listen,
            remap=_mapping(tablespace_mapping or []),
            owner=(who.uid, who.gid) if who else None,
            workers=workers,
            verify=not no_verify,
            again=again,
        )
        wal.install()
    with suppress(OSError):  # an estimate that is missing next time is no reason to fail now
        rates.write_rates(note, wanted.layout, done.bytes_s)
    view.tell(wanted, done, _next(done, bindir, who, wal), form)


def _say_zone(time: str | None) -> None:
    from dbsec.backup.restoring.target import says_zone

    if time is not None and not says_zone(time):
        print(f"dbsec: '{time}' names no zone: it is taken as UTC", file=sys.stderr)


def _mapping(told: list[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in told]
    if bad := [old for old, sign, new in pairs if not (old and sign and new)]:
        raise UsageError(f"'{bad[0]}' is no OLD=NEW", hint="--tablespace-mapping /old/folder=/new/folder")
    return {old: new for old, _, new in pairs}


def _state_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "dbsec"


@dataclass(frozen=True, slots=True)
class _Wal:
    """How the copy gets its WAL: from a resident process, or from a dbsec of its own for each segment."""

    folder: Path
    config: Path | None
    socket: Path | None
    owner: Account | None

    def command(self) -> str:
        """Return ``restore_command``. Errors: ``ProgramMissing``, ``UsageError``."""
        from dbsec.backup.wal import commands

        if self.socket is not None:
            python = commands.find_python(self.owner)
            return commands.restore_command(self.socket.absolute(), client=self.folder / commands.CLIENT, python=python)
        dbsec = Path(sys.executable).with_name("dbsec")
        return commands.slow_restore_command(dbsec, (self.config or Path("dbsec.toml")).absolute())

    def install(self) -> None:
        """Put the client where the command looks for it: without it the server ends, and not short."""
        from dbsec.backup.wal import commands

        if self.socket is not None:
            commands.install_client(self.folder, owner=(self.owner.uid, self.owner.gid) if self.owner else None)

    def needs(self) -> str:
        """Say what must be so while the server recovers."""
        if self.socket is not None:
            return f"'dbsec backup wal archiver --socket {self.socket}' must run until it has recovered"
        return "the server's account must be able to run 'dbsec backup wal fetch', with the keys in its environment"


def _next(done: Restored, bindir: Path | None, who: Account | None, wal: _Wal) -> list[str]:
    log = done.folder.with_name(f"{done.folder.name}.log")
    program = str(bindir / "pg_ctl") if bindir else "pg_ctl"
    start = shlex.join([program, "-D", str(done.folder), "-l", str(log), "start"])
    as_whom = f"as '{who.name}': " if who else ""
    return [wal.needs(), f"{as_whom}{start}"]
