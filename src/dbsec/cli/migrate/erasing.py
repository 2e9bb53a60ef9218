"""``dbsec migrate rewrite | residue``: write a table anew so that a dropped value is gone, and prove that it is."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbsec.cli import exits, output
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.errors import ConfigError, UsageError

if TYPE_CHECKING:
    import psycopg

    from dbsec.migrations.names import Name
    from dbsec.migrations.residue import Searched
    from dbsec.migrations.rewrite import Rewritten

Ref = Annotated[str, typer.Option("--dsn", metavar="REF", help="The database, as env:NAME or file:PATH of its DSN.")]
_BYTES = {"TB": 1 << 40, "GB": 1 << 30, "MB": 1 << 20, "kB": 1 << 10}


def add(command: typer.Typer) -> None:
    """Add both commands."""
    for one in (rewrite, residue):
        command.command()(one)


def rewrite(
    table: Annotated[str, typer.Argument(metavar="SCHEMA.TABLE", help="The table.")],
    dsn: Ref,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without it the plan is printed.")] = False,
    in_window: Annotated[bool, typer.Option("--in-window", help="VACUUM FULL: the table is shut meanwhile.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Take away what an online rewrite has left.")] = False,
    keep_days: Annotated[int, typer.Option(min=0, help="How long backups and archived WAL are kept.")] = 30,
    form: As = Format.TEXT,
) -> None:
    """Write a table anew, so that what a dropped column held is no longer on the server's disk.

    Online by default: into a shadow beside the table, then a swap of milliseconds. Backups and archived WAL of before
    keep the values until they expire: the date is told. Exit code 0: done, or possible; 1: refused; 3: could not tell.
    """
    inputs.need_parser()
    from dbsec.migrations import shadow
    from dbsec.migrations.expand_contract.ask import table_name

    name = table_name(table)
    if name.schema is None:
        raise UsageError(f"'{table}' does not name its schema", hint=f"dbsec migrate rewrite public.{table}")
    with inputs.connected(dsn) as connection, output.progress() as progress:
        if abort and apply:
            shadow.abort(connection, name)
            print(f"dbsec: nothing is left of a rewrite of '{name}'", file=sys.stderr)
        elif apply:
            _tell_done(_rewritten(connection, name, in_window=in_window, keep_days=keep_days, progress=progress), form)
        else:
            raise typer.Exit(_planned(connection, name, in_window=in_window, abort=abort, form=form))


def residue(
    dsn: Ref,
    canary: Annotated[list[str], typer.Option("--canary", metavar="REF", help="A value, as env:NAME or file:PATH.")],
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="The server's data directory, on this host.")] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="KIND=PATH", help="A log, a standby, a backup, an archive: log=/var/log/pg."),
    ] = None,
    before: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The JSON of a search that found it: the proof that this can.")
    ] = None,
    form: As = Format.TEXT,
) -> None:
    """Look for values in table files, WAL, logs, standbys, backups, statistics; they show as a hash.

    Exit code 0: none is left; 1: some are; 2: wrong usage; 3: could not tell (something was not read, or the search
    of --before found nothing).
    """
    from dbsec.migrations import residue as looking
    from dbsec.migrations import residue_places as places
    from dbsec.secret import resolve

    canaries = [looking.Canary.of(resolve(reference, environ=os.environ).reveal()) for reference in canary]
    copies = [_named_path(text) for text in also or ()]
    earlier = _earlier(before)
    with inputs.connected(dsn) as connection, output.progress() as progress:
        caveats = [*places.written_out(connection), *places.caveats(connection)]
        wanted = [*places.of_server(connection)]
        if data is not None:
            wanted += places.of_cluster(connection, data)
        for kind, path in copies:
            wanted += places.of_copy(path, kind)
        found = looking.search(canaries, wanted, caveats=caveats, progress=progress)
    _tell_found(found, form)
    raise typer.Exit(_code(found, earlier))


def _rewritten(
    connection: psycopg.Connection[Any], name: Name, *, in_window: bool, keep_days: int, progress: Any
) -> Rewritten:
    from dbsec.migrations import rewrite as writing
    from dbsec.migrations import shadow

    keep = timedelta(days=keep_days)
    if in_window:
        return writing.in_window(connection, name, keep=keep, progress=progress)

    def told(blockers: Any) -> None:
        progress.step(f"waits for {', '.join(map(str, blockers))}")

    return shadow.online(connection, name, keep=keep, progress=progress, told=told)


def _planned(connection: psycopg.Connection[Any], name: Name, *, in_window: bool, abort: bool, form: Format) -> int:
    """Tell what would be done; returns the exit code."""
    from dbsec.migrations import shadow

    refused = shadow.refusals(connection, name)
    query = "SELECT pg_catalog.pg_table_size(%s), pg_catalog.pg_indexes_size(%s)"
    row = connection.execute(query, (str(name), str(name))).fetchone()
    size = sum(row) if row is not None else 0
    act = "take away the shadow and its triggers" if abort else "VACUUM FULL" if in_window else "online"
    stops = [] if in_window or abort else refused
    if form is Format.JSON:
        output.envelope(
            "migrate rewrite", result={"table": str(name), "act": act, "size_bytes": size, "refused": refused}
        )
    else:
        print(f"{name}: {act}; {_size(size)}, and as much free disk is needed besides")
        for one in stops:
            print(f"  refused: it has {one}")
        print("  next: --in-window" if stops else "  next: the same with --apply")
    return exits.FINDINGS if stops else exits.CLEAN


def _tell_done(done: Rewritten, form: Format) -> None:
    told = {
        "table": done.table,
        "method": done.method,
        "seconds": round(done.seconds, 3),
        "at": done.at.isoformat(),
        "expires": done.expires.isoformat(),
        "left": list(done.left),
    }
    if form is Format.JSON:
        output.envelope("migrate rewrite", result=told)
        return
    print(f"{done.table}: written anew ({done.method}, {done.seconds:.1f} s)")
    for one in done.left:
        print(f"  left: {one}")
    print(f"  backups begun before {done.at:%Y-%m-%d %H:%M} UTC, and WAL of before, hold the old values")
    print(f"  they must be gone by {done.expires:%Y-%m-%d}")


def _named_path(text: str) -> tuple[str, Path]:
    kind, sign, path = text.partition("=")
    if not sign or not kind or not Path(path).exists():
        raise UsageError(f"'--also {text}': no kind and path, or the path is not there", hint="--also log=/var/log/pg")
    return kind, Path(path)


def _earlier(file: Path | None) -> int | None:
    """Count what an earlier search found; None without one."""
    if file is None:
        return None
    try:
        return len(json.loads(file.read_text(encoding="utf-8"))["result"]["traces"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(
            f"'{file}' is no result of a search: {exc}", hint="dbsec migrate residue --format json"
        ) from exc


def _tell_found(found: Searched, form: Format) -> None:
    from dbsec.migrations.residue import told

    if form is Format.JSON:
        output.envelope("migrate residue", result=told(found))
        return
    for trace in found.traces:
        print(f"{trace.count:>8,}  {trace.kind}  {trace.place}  <{trace.canary}> {trace.form}")
    print(f"{len(found.traces):,} places of {found.files:,} hold a value; {_size(found.size_bytes)} looked through")
    for one in found.unread:
        print(f"dbsec: not read: {one}", file=sys.stderr)
    for one in found.caveats:
        print(f"dbsec: mind: {one}", file=sys.stderr)


def _code(found: Searched, earlier: int | None) -> int:
    if found.traces:
        return exits.FINDINGS
    if earlier == 0:
        print("dbsec: the search of before found nothing either: this proves nothing", file=sys.stderr)
    return exits.COULD_NOT_TELL if found.unread or earlier == 0 else exits.CLEAN


def _size(size: float) -> str:
    unit = next((name for name, least in _BYTES.items() if size >= least), "bytes")
    return f"{size / _BYTES.get(unit, 1):.0f} {unit}"
