"""``dbsec backup metrics``: the same numbers for Prometheus, as text or as a file for node_exporter."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dbsec.cli import exits
from dbsec.cli.backup import _options as options


def add(command: typer.Typer) -> None:
    """Add ``metrics``."""
    command.command()(metrics)


def metrics(
    config: options.File = None,
    dsn: options.Dsn = None,
    slot: Annotated[str, typer.Option(metavar="NAME", help="The receiver's slot.")] = "",
    textfile: Annotated[
        Path | None, typer.Option("--textfile", metavar="FILE", help="Replace this file, in place of printing.")
    ] = None,
    no_server: Annotated[bool, typer.Option("--no-server", help="Measure the repository alone.")] = False,
) -> None:
    """Measure how far WAL reaches, what waits, what the slot keeps, how old backup and proof are.

    What could not be asked is 0 in dbsec_backup_up, and missing else; the alert rules of db/monitoring know both.
    Exit code 0: all measured; 3: something was away.
    """
    from dbsec.backup import measures
    from dbsec.backup.wal.slot import DEFAULT
    from dbsec.metrics import text, write
    from dbsec.pg import connect

    settings = options.settings_of(config)
    server = None if no_server else options.server(settings, dsn)
    samples, away = measures.collect(
        lambda: options.repository(settings),
        None if server is None else lambda: connect(server),
        options.config_of(config).objectives,
        slot_name=slot or DEFAULT,
    )
    if textfile is None:
        print(text(samples), end="")
    else:
        write(textfile, samples)
    for name, why in away.items():
        print(f"dbsec: the {name}: {why}", file=sys.stderr)
    if away:
        raise typer.Exit(exits.COULD_NOT_TELL)
