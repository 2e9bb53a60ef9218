"""``dbsec backup take``: a base backup, sealed while it comes."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.backup import _options as options
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format

if TYPE_CHECKING:
    from dbsec.backup import Backup, BackupSettings
    from dbsec.backup.base.options import TakeOptions

WAL_WITHIN_S = 120.0


class Engine(StrEnum):
    """Who reads the cluster's files."""

    PROTOCOL = "protocol"
    RANGES = "ranges"


class Compress(StrEnum):
    """Who packs."""

    AUTO = "auto"
    SERVER = "server"
    CLIENT = "client"


class Checkpoint(StrEnum):
    """How the checkpoint before it is made: at once, or spread so that the server feels it less."""

    FAST = "fast"
    SPREAD = "spread"


def add(command: typer.Typer) -> None:
    """Add ``take``."""
    command.command()(take)


def take(
    dsn: options.Dsn = None,
    config: options.File = None,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Only what changed since the parent: PostgreSQL 17 and later.")
    ] = False,
    parent: Annotated[str, typer.Option(metavar="ID", help="Build on this one; else on the newest.")] = "",
    engine: Annotated[Engine | None, typer.Option(help="By default [backup] engine.")] = None,
    label: Annotated[str, typer.Option(metavar="TEXT", help="A word of yours, shown by list.")] = "",
    rate: Annotated[
        float | None, typer.Option(metavar="MB/s", help="At most as much from the server; else [backup] rate_mb_s.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Threads that pack and seal.")] = 2,
    compress: Annotated[Compress, typer.Option(help="Who packs: auto asks the server first.")] = Compress.AUTO,
    checkpoint: Annotated[Checkpoint, typer.Option(help="At once, or spread.")] = Checkpoint.FAST,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the WAL that it needs.")] = False,
    form: As = Format.TEXT,
) -> None:
    """Take a base backup of the server that --dsn names, primary or standby, into the repository.

    It is a backup once all of it is in the store: what is killed or cut off before leaves none. Exit code 0: taken, and
    the WAL that it needs is there; 1: taken, but that WAL is not there yet, or damaged pages; 2: wrong usage; 3: not
    taken.
    """
    from dbsec.backup.base import awaiting, taking

    settings = options.settings_of(config)
    with inputs.refusals(), output.progress() as progress:
        repository = options.repository(settings)
        wanted = _wanted(settings, engine, incremental, parent, label, rate, workers, compress, checkpoint)
        backup = taking.take(repository, options.server(settings, dsn), wanted, progress=progress)
        within_s = 0.0 if no_wait else WAL_WITHIN_S
        there = awaiting.await_wal(repository, backup, within_s=within_s, progress=progress)
    _tell(backup, form, wal_there=there)
    if not there and not no_wait:
        raise typer.Exit(exits.FINDINGS)


def _wanted(
    settings: BackupSettings,
    engine: Engine | None,
    incremental: bool,
    parent: str,
    label: str,
    rate: float | None,
    workers: int,
    compress: Compress,
    checkpoint: Checkpoint,
) -> TakeOptions:
    from dbsec.backup.base.options import TakeOptions

    rate_mb_s = rate if rate is not None else settings.rate_mb_s
    return TakeOptions(
        label=label,
        incremental=incremental,
        parent=parent,
        engine=engine.value if engine is not None else settings.engine,
        workers=workers,
        rate_bytes_s=int(rate_mb_s * 1_000_000) if rate_mb_s is not None else None,
        checkpoint=checkpoint.value,
        compress=compress.value,
    )


def _tell(backup: Backup, form: Format, *, wal_there: bool) -> None:
    if form is Format.JSON:
        from dbsec.cli.backup.listing import told

        output.envelope("backup take", result={**told(backup), "wal_there": wal_there})
        return
    ratio = f", {backup.plain_bytes / backup.stored_bytes:.1f}:1" if backup.stored_bytes else ""
    kind = f"incremental on {backup.parent}" if backup.parent else "full"
    print(f"backup {backup.id}: {kind}, {backup.plain_bytes:,} bytes in {backup.stored_bytes:,}{ratio}")
    print(f"WAL from {backup.start_lsn} to {backup.stop_lsn}, timeline {backup.timeline}")
    if not backup.page_checksums:
        print("the cluster has no page checksums: damaged pages were not looked for")
    if not wal_there:
        print(f"it can be restored once WAL up to {backup.stop_lsn} is in the repository, and that is not there yet")
        print("  try: dbsec backup show " + backup.id)
