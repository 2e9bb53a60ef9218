"""``dbsec at-rest check``: what the data directory lies on, and what leaks beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As, Dsn
from dbsec.cli.output import Format
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.backup.at_rest import Checked, ClusterHere


def add(command: typer.Typer) -> None:
    """Add ``check``."""
    command.command()(check)


def check(
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", metavar="DIR", help="The data directory; its server may be down.")
    ] = None,
    dsn: Dsn = None,
    form: As = Format.TEXT,
) -> None:
    """Tell what the data directory, WAL and tablespaces lie on, and log, archive, swap and core dumps beside them.

    As root it sees most. Exit code 0: all is encrypted, or reaches no disk; 1: something is not; 3: something cannot
    be told from here, and the command that tells it stands beside it.
    """
    from dbsec.backup.at_rest import Verdict
    from dbsec.backup.at_rest import check as checked

    found = checked(_cluster(data_dir, dsn))
    if form is Format.JSON:
        findings = [one.to_json() for one in found.findings]
        output.envelope("at-rest check", result=found.to_json(), findings=findings)
    else:
        _tell(found)
    if found.verdict is Verdict.CLEAR:
        raise typer.Exit(exits.FINDINGS)
    if found.verdict is Verdict.UNKNOWN:
        raise typer.Exit(exits.COULD_NOT_TELL)


def _cluster(data_dir: Path | None, dsn: str | None) -> ClusterHere:
    from dbsec.backup.at_rest import from_folder, from_server

    if (data_dir is None) == (dsn is None):
        raise UsageError("name the data directory or a server on this machine", hint="--data-dir DIR, or --dsn REF")
    if data_dir is not None:
        return from_folder(data_dir.absolute())
    assert dsn is not None
    with inputs.connected(dsn) as session:
        return from_server(session)


def _tell(found: Checked) -> None:
    from dbsec.backup.at_rest.checking import NOT_PROTECTED

    for place in found.places:
        where = f" {place.path}" if place.path else ""
        print(f"{place.seen.verdict:<14} {place.name}{where}: {place.seen.how}")
        if place.seen.check:
            print(f"{'':<14}   look: {place.seen.check}")
    for one in found.findings:
        if one.code in ("BAK204", "BAK205"):
            print(f"{one.severity:<14} {one.code} {one.message}\n{'':<14}   fix: {one.fix}")
    print(f"verdict: {found.verdict}; {NOT_PROTECTED}")
