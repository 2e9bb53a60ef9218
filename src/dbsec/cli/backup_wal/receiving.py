"""``dbsec backup wal receive``: stream WAL from the server and seal it within seconds."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import output
from dbsec.cli.backup import _options as options
from dbsec.cli.migrate import inputs

if TYPE_CHECKING:
    from dbsec.pg import Conninfo


def add(command: typer.Typer) -> None:
    """Add ``receive``."""
    command.command("receive")(receive)


def receive(
    config: options.File = None,
    dsn: options.Dsn = None,
    slot: Annotated[str, typer.Option(metavar="NAME", help="The replication slot; made where it is missing.")] = "",
    every: Annotated[
        str, typer.Option(metavar="SPAN", help="Seal what arrived after this at the latest: the RPO.")
    ] = "5s",
    drop_slot: Annotated[bool, typer.Option("--drop-slot", help="Drop the slot, and receive nothing.")] = False,
    unlimited_slot: Annotated[
        bool, typer.Option("--unlimited-slot", help="Even where max_slot_wal_keep_size limits nothing.")
    ] = False,
) -> None:
    """Receive WAL through a slot until SIGTERM, which seals what has arrived first.

    Runs beside archive_command, or alone: both put the same objects. The server forgets nothing that the store has not
    acknowledged. Exit code 0: ended by a signal; 1: the slot is lost, or the archive holds another history.
    """
    from dbsec.backup.wal import slot as slots
    from dbsec.backup.wal.receiver import ReceiveOptions, Receiver

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = options.settings_of(config)
    server = options.server(settings, dsn)
    name = slots.check_name(slot or slots.DEFAULT)
    if drop_slot:
        _drop(server, name)
        return
    told = ReceiveOptions(slot=name, every=options.span("--every", every), unlimited=unlimited_slot)
    with inputs.refusals(), output.progress() as progress:
        Receiver(options.repository(settings), server, told, ended=ended.is_set, progress=progress).run()


def _drop(server: Conninfo, name: str) -> None:
    from dbsec.backup.base.replication import open_replication
    from dbsec.backup.wal import slot

    with inputs.refusals(), open_replication(server) as session:
        there = slot.drop(session, name)
    print(f"the slot '{name}' {'is dropped' if there else 'is not there'}")
