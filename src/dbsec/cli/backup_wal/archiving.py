"""``dbsec backup wal archiver`` and ``client``: the resident process, and what PostgreSQL runs to ask it."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import output
from dbsec.cli.backup import _options as options
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.process import Account

Socket = Annotated[Path, typer.Option("--socket", metavar="PATH", help="The socket; its folder must be there.")]
AccountName = Annotated[
    str | None, typer.Option("--account", metavar="NAME", help="The server's account, where it is not this one.")
]


def add(command: typer.Typer) -> None:
    """Add ``archiver`` and ``client``."""
    command.command("archiver")(archiver)
    command.command("client")(client)


def archiver(
    socket: Socket,
    config: options.File = None,
    account: AccountName = None,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Threads that seal and put.")] = 2,
    look_ahead: Annotated[int, typer.Option(min=0, max=64, help="Segments put before they are asked for.")] = 8,
) -> None:
    """Serve archive_command and restore_command from one process, until SIGTERM, which lets it end what it has begun.

    Nothing is acknowledged that the store has not acknowledged. SIGHUP is ignored. Exit code 0: ended by a signal.
    """
    from dbsec.backup.wal.serving import serve

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    who = _account(account)
    repository = options.repository(options.settings_of(config))
    owner = (who.uid, who.gid) if who else None
    with serve(repository, socket.absolute(), owner=owner, workers=workers, ahead=look_ahead):
        print(f"serving '{socket}'", file=sys.stderr, flush=True)
        ended.wait()


def client(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the server's account can read it.")],
    socket: Socket,
    account: AccountName = None,
    peer: Annotated[
        str | None,
        typer.Option("--peer", metavar="NAME", help="The archiver's account: neither root nor the server's."),
    ] = None,
    form: As = Format.TEXT,
) -> None:
    """Install the client that PostgreSQL runs, and print the settings that run it.

    Exit code 0: installed; 3: no Python runs for the account.
    """
    from dbsec.backup.wal import commands

    if not folder.is_dir():
        raise UsageError(f"folder '{folder}' is not there", hint=f"mkdir {folder}")
    python = commands.find_python(_account(account))
    installed = commands.install_client(folder.absolute())
    other = _account(peer)
    uid = other.uid if other else None
    texts = {"archive_command": commands.archive_command, "restore_command": commands.restore_command}
    settings = {
        name: text(socket.absolute(), client=installed, python=python, peer=uid) for name, text in texts.items()
    }
    if form is Format.JSON:
        output.envelope("backup wal client", result={"client": str(installed), **settings})
        return
    for name, value in settings.items():
        print(f"{name} = {commands.literal(value)}")


def _account(name: str | None) -> Account | None:
    """Look an account up. Errors: ``UsageError``."""
    from dbsec.process import Account

    try:
        return Account.named(name) if name is not None else None
    except KeyError as exc:
        raise UsageError(f"there is no account '{name}'", hint="getent passwd") from exc
