"""``dbsec backup wal fetch``: what ``restore_command`` runs where no server of WAL is resident."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbsec.cli import exits
from dbsec.cli.backup import _options as options

Proof = Annotated[
    bool, typer.Option("--proof", help="End with 92 where it is done and 93 at the end: no failure looks like them.")
]


def add(command: typer.Typer) -> None:
    """Add ``fetch``."""
    command.command("fetch")(fetch)


def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="%f of restore_command.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="%p of restore_command: where the file goes.")],
    config: options.File = None,
    proof: Proof = False,  # noqa: ARG001 read by dbsec.cli.exits, which also ends what never comes here
) -> None:
    """Write a file of the archive to PATH, proven and whole.

    Exit code 0: written; 1: the archive ends before it, proven; 255: anything else, which PostgreSQL must not take for
    the end.
    """
    from dbsec.backup.wal.ends import EndOfArchive
    from dbsec.backup.wal.fetch import fetch as fetched

    repository = options.repository(options.settings_of(config))
    try:
        fetched(repository, name, path)
    except EndOfArchive as exc:
        exits.say(exc)
        raise typer.Exit(exits.END) from exc
    raise typer.Exit(exits.DONE)
