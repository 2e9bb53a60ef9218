"""``dbsec backup wal push``: what ``archive_command`` runs where no archiver is resident."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbsec.cli import exits
from dbsec.cli.backup import _options as options

Proof = Annotated[
    bool, typer.Option("--proof", help="End with 92 where it is done: no failure to start looks like it.")
]


def add(command: typer.Typer) -> None:
    """Add ``push``."""
    command.command("push")(push)


def push(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file of pg_wal: %p of archive_command.")],
    config: options.File = None,
    proof: Proof = False,  # noqa: ARG001 read by dbsec.cli.exits, which also ends what never comes here
) -> None:
    """Seal a WAL file and put it into the repository, where the same content may be already.

    Exit code 0: the store has acknowledged it; 1 to 125: PostgreSQL keeps the file and tries again.
    """
    from dbsec.backup.wal.push import push_file

    push_file(options.repository(options.settings_of(config)), path)
    raise typer.Exit(exits.DONE)
