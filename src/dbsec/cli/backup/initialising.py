"""``dbsec backup init``: look at server and store, and make the repository."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import output
from dbsec.cli.backup import _options as options
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format

if TYPE_CHECKING:
    from dbsec.backup import BackupSettings
    from dbsec.backup.initialising import Initialised


def add(command: typer.Typer) -> None:
    """Add ``init``."""
    command.command("init")(init)


def init(
    config: options.File = None,
    dsn: options.Dsn = None,
    store: Annotated[str, typer.Option(metavar="URL", help="The store, instead of [backup] store.")] = "",
    kms: Annotated[str, typer.Option(metavar="URI", help="The KEK, instead of [backup] kms.")] = "",
    accept_unsafe: Annotated[
        bool, typer.Option("--accept-unsafe-store", help="Go on with a store that overwrites or loses: to try it out.")
    ] = False,
    form: As = Format.TEXT,
) -> None:
    """Make the repository that [backup] names, for one server; a second time it changes nothing.

    The store is probed: one that overwrites or loses what it has acknowledged is refused. Exit code 0: it is there; 1:
    the store is refused; 2: wrong usage, or a repository of another cluster; 3: server, store or KMS do not answer.
    """
    from dbsec.backup import initialising
    from dbsec.pg import connect

    settings = options.settings_of(config)
    changed = {name: value for name, value in (("store", store), ("kms", kms)) if value}
    settings = settings.model_copy(update=changed)
    with inputs.refusals(), connect(options.server(settings, dsn)) as session:
        done = initialising.initialise(settings, session, environ=os.environ, accept_unsafe=accept_unsafe)
    if form is Format.JSON:
        cluster = done.server.cluster
        told = {"system": str(cluster.system), "segment_bytes": cluster.segment_bytes, "server": done.server.version}
        traits = [asdict(trait) for trait in done.traits]
        output.envelope("backup init", result={**told, "traits": traits, "warnings": list(done.warnings)})
        return
    _tell(done, settings if changed else None, config or Path("dbsec.toml"))


def _tell(done: Initialised, chosen: BackupSettings | None, config: Path) -> None:
    from dbsec.backup.wal.commands import literal, slow_archive_command

    cluster = done.server.cluster
    print(f"the repository is there, for the cluster {cluster.system} (PostgreSQL {done.server.version})")
    for trait in done.traits:
        print(f"  {trait.outcome.value:5}  {trait.name}: {trait.said}")
    for warning in done.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if chosen is not None:
        print(f"put into {config}:")
        print("  [backup]")
        for name in ("store", "kms", "dsn"):
            print(f"  {name} = {_toml(getattr(chosen, name) or '...')}")
    print("next:")
    print("  dbsec backup wal archiver --socket PATH        runs beside the server")
    print("  dbsec backup wal client FOLDER --socket PATH   prints the archive_command that goes with it")
    dbsec = Path(sys.argv[0]).absolute()
    print(f"  or, slower: archive_command = {literal(slow_archive_command(dbsec, config.absolute()))}")
    print("  dbsec backup take")


def _toml(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
