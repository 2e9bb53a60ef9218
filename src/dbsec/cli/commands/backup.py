"""Encrypted backups and WAL: take, restore to a point in time, verify, rehearse, rotate their keys."""

from __future__ import annotations

import typer

from dbsec import discovery
from dbsec.cli import backup

COMMAND = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)


@COMMAND.callback()
def _group() -> None:
    """Keep each command a word of its own while it is the only one."""


# a file in cli/backup adds a command; it imports what is heavy when it runs
for _add in discovery.constants_in(backup, "add").values():
    _add(COMMAND)
