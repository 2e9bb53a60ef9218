"""Encryption in transit: certificates, server configuration, probes, drills, and what clients would accept."""

from __future__ import annotations

import typer

from dbsec import discovery
from dbsec.cli import tls

COMMAND = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)


@COMMAND.callback()
def _group() -> None:
    """Keep each command a word of its own."""


# a file in cli/tls adds a command; it imports what is heavy when it runs
for _add in discovery.constants_in(tls, "add").values():
    _add(COMMAND)
