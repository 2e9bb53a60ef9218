"""Encryption of the disk: what a cluster really lies on, a lab that proves it, another key for a LUKS volume."""

from __future__ import annotations

import typer

from dbsec import discovery
from dbsec.cli import at_rest

COMMAND = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)


@COMMAND.callback()
def _group() -> None:
    """Keep each command a word of its own."""


# a file in cli/at_rest adds a command; it imports what is heavy when it runs
for _add in discovery.constants_in(at_rest, "add").values():
    _add(COMMAND)
