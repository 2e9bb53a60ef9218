"""``dbsec backup wal``: WAL into the repository and out of it, by PostgreSQL's commands or as a stream."""

from __future__ import annotations

import typer

from dbsec import discovery
from dbsec.cli import backup_wal


def add(command: typer.Typer) -> None:
    """Add the group; a file in cli/backup_wal adds a command to it."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Archive WAL, fetch it, stream it.")
    group.callback()(_group)
    for adds in discovery.constants_in(backup_wal, "add").values():
        adds(group)
    command.add_typer(group, name="wal")


def _group() -> None:
    """Keep each command a word of its own while it is the only one."""
