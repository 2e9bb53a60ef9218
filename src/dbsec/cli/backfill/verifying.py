"""``dbsec backfill verify``: judge every row of a backfill, name what is wrong by key, and repair it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format

if TYPE_CHECKING:
    from dbsec.backfill.verification import Verification


def add(command: typer.Typer) -> None:
    """Add ``verify``."""
    command.command()(verify)


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The job: NNN_name.toml, begun before.")],
    dsn: Annotated[str, typer.Option("--dsn", metavar="REF", help="The server, as env:NAME or file:PATH of its DSN.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Write the rows that are wrong, and judge them again.")
    ] = False,
    range_rows: Annotated[
        int, typer.Option(min=1, help="Rows that one look judges; each is a short snapshot.")
    ] = 10_000,
    form: As = Format.TEXT,
) -> None:
    """Judge every row of a backfill by key range, without a lock; rows that are wrong are named by key, never by value.

    It proves the rows as they are now: a client that does not write both, later, is found by the next one.
    Exit code 0: every row is right; 1: some are not; 2: a job that cannot be compared; 3: could not tell.
    """
    from dbsec.backfill import Job
    from dbsec.backfill.verify import verify as judge

    sys.path.insert(0, str(Path.cwd()))  # a job's module:function is found as an application's is
    job = Job.load(file)
    with inputs.connected(dsn) as connection, output.progress() as progress:
        found = judge(connection, job, repair=repair, range_rows=range_rows, progress=progress)
    _tell(found, form)
    if not found.clean:
        raise typer.Exit(exits.FINDINGS)


def _tell(found: Verification, form: Format) -> None:
    if form is Format.JSON:
        keys = [{"key": list(one.key), "sort": one.sort} for one in found.mismatches]
        output.envelope("backfill verify", result={**found.to_json(), "mismatches": keys})
        return
    for one in found.mismatches:
        print(f"{one.sort}: {', '.join(one.key)}")
    if found.off > len(found.mismatches):
        print(f"... and {found.off - len(found.mismatches):,} more")
    print(_line(found))


def _line(found: Verification) -> str:
    parts = [f"{found.name}: {found.rows:,} rows judged in {found.ranges:,} ranges"]
    parts += [f"{found.outside:,} not of the job"] * bool(found.outside)
    parts += [f"{found.repaired:,} repaired"] * bool(found.repaired)
    parts += [f"{found.empty:,} whose expression is NULL"] * bool(found.empty)
    off = f"{found.missed:,} missed, {found.null:,} NULL, {found.wrong:,} of another value"
    return f"{', '.join(parts)}; {off if found.off else 'all right'}; checksum {found.checksum}"
