"""``dbsec backup list`` and ``show``: what was taken, what was begun and never finished, and what one consists of."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbsec.cli import exits, output
from dbsec.cli.backup import _options as options
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from dbsec.backup import Backup
    from dbsec.backup.base.overview import Entry

HEADER = ("backup", "state", "kind", "data", "stored", "ratio", "timeline", "start", "stop", "age", "label")


def add(command: typer.Typer) -> None:
    """Add ``list`` and ``show``."""
    command.command("list")(list_backups)
    command.command()(show)


def list_backups(config: options.File = None, form: As = Format.TEXT) -> None:
    """List every base backup, and what was begun and is none.

    Exit code 0: all read; 1: the description of one does not open; 2: wrong usage; 3: could not tell.
    """
    from dbsec.backup.base import overview
    from dbsec.clock import SYSTEM

    with inputs.refusals():
        found = overview.entries(options.repository(options.settings_of(config)))
    if form is Format.JSON:
        output.envelope("backup list", result=[_entry(entry) for entry in found])
    else:
        _print([HEADER, *(_row(entry, SYSTEM.now()) for entry in found)])
        for entry in found:
            if entry.why:
                print(f"dbsec: {entry.why}", file=sys.stderr)
    if any(entry.state is overview.State.UNREADABLE for entry in found):
        raise typer.Exit(exits.FINDINGS)


def show(
    backup: Annotated[str, typer.Argument(metavar="ID", help="As list shows it.")],
    config: options.File = None,
    form: As = Format.TEXT,
) -> None:
    """Show one backup: its chain, its tablespaces, and whether the WAL that makes it consistent is there.

    Exit code 0: whole; 1: it is unfinished, or WAL is missing; 2: wrong usage; 3: could not tell.
    """
    from dbsec.backup import catalog
    from dbsec.backup.base import awaiting, overview

    with inputs.refusals():
        repository = options.repository(options.settings_of(config))
        found = catalog.get_backup(repository, backup)
        chain = catalog.chain(repository, found)
        missing = awaiting.wal_missing(repository, found)
        others = [entry.backup for entry in overview.entries(repository) if entry.backup is not None]
    facts = {
        **told(found),
        "chain": [one.id for one in chain],
        "children": overview.children(found, others),
        "wal_missing": missing,
    }
    if form is Format.JSON:
        output.envelope("backup show", result=facts)
    else:
        _print([(name.replace("_", " "), _shown(value)) for name, value in facts.items()])
    if missing:
        raise typer.Exit(exits.FINDINGS)


def told(backup: Backup) -> dict[str, Any]:
    """Return what of a description is of use to a reader: sizes and places, and no name of an object."""
    return {
        "id": backup.id,
        "label": backup.label,
        "parent": backup.parent,
        "engine": backup.engine,
        "layout": backup.layout.value,
        "source": backup.source,
        "server_version": backup.server_version,
        "system": str(backup.system),
        "timeline": backup.timeline,
        "start_lsn": backup.start_lsn,
        "stop_lsn": backup.stop_lsn,
        "started": backup.started,
        "stopped": backup.stopped,
        "plain_bytes": backup.plain_bytes,
        "stored_bytes": backup.stored_bytes,
        "objects": sum(1 for _ in backup.objects()),
        "page_checksums": backup.page_checksums,
        "tablespaces": [{"oid": space.oid, "path": space.path} for space in backup.tablespaces],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    body: dict[str, Any] = {"id": entry.id, "state": entry.state.value}
    if entry.backup is not None:
        return {**body, **told(entry.backup)}
    if entry.why:
        return {**body, "why": entry.why}
    return {**body, "objects": entry.objects, "stored_bytes": entry.stored_bytes, "newest": entry.newest}


def _row(entry: Entry, now: datetime) -> tuple[str, ...]:
    backup = entry.backup
    if backup is None:
        size = _size(entry.stored_bytes) if entry.objects else "-"
        age = _age(now, entry.newest) if entry.newest else "-"
        return (entry.id, entry.state.value, "-", "-", size, "-", "-", "-", "-", age, "")
    kind = f"on {backup.parent}" if backup.parent else "full"
    ratio = f"{backup.plain_bytes / backup.stored_bytes:.1f}" if backup.stored_bytes else "-"
    sizes = (_size(backup.plain_bytes), _size(backup.stored_bytes), ratio)
    where = (str(backup.timeline), backup.start_lsn, backup.stop_lsn)
    return (entry.id, entry.state.value, kind, *sizes, *where, _age(now, backup.stopped_at), backup.label)


def _size(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"


def _age(now: datetime, then: datetime) -> str:
    minutes = max(0, int((now - then).total_seconds() // 60))
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} d"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(one) for one in value) or "-"
    if isinstance(value, dict):
        return " ".join(str(one) for one in value.values())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value) or "-"


def _print(rows: Sequence[tuple[str, ...]]) -> None:
    """Print columns on a terminal; elsewhere fields with a tab between, which cut and awk read."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        print("  ".join(field.ljust(width) for field, width in zip(row, widths, strict=True)).rstrip())
