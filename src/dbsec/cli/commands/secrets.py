"""Secrets of a service: stored values, and credentials of databases that are issued, replaced and ended."""

from __future__ import annotations

import typer

from dbsec import discovery
from dbsec.cli import secrets

COMMAND = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)


@COMMAND.callback()
def _group() -> None:
    """Keep each command a word of its own."""


# a file in cli/secrets adds a command; it imports what is heavy when it runs
for _add in discovery.constants_in(secrets, "add").values():
    _add(COMMAND)
