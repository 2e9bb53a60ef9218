"""``dbsec crypto classify``: every column of a live database has a class and a mode, and keeps to it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import exits
from dbsec.cli.crypto import _options as options
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format

if TYPE_CHECKING:
    from dbsec.crypto.classification import Observed
    from dbsec.findings import Finding
    from dbsec.report.findings import Results
    from dbsec.waivers import Applied

_FILE = Path("db/data_classification.toml")


def add(command: typer.Typer) -> None:
    """Add ``classify``."""
    command.command()(classify)


def classify(
    dsn: options.Dsn,
    classification: Annotated[
        Path, typer.Option(metavar="FILE", help="Class, mode, reason and owner of every column.")
    ] = _FILE,
    sample: Annotated[
        int, typer.Option(min=0, max=100_000, help="Also look at that many rows of each text column, on the server.")
    ] = 0,
    waivers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Accepted findings; by default dbsec-waivers.toml here.")
    ] = None,
    form: As = Format.TEXT,
) -> None:
    """Compare a database with its classification; it only reads, and shows no value.

    Exit code 0: every column is listed and kept as listed (warnings aside); 1: findings; 3: could not look.
    """
    from dbsec.crypto import classification as crypto

    listed = crypto.load(classification)
    with inputs.connected(dsn) as connection:
        observed = crypto.read(connection, listed, sample=sample)
    applied = _applied(crypto.judge(listed, observed), waivers)
    results = _results(applied, observed)
    sys.stdout.write(importlib.import_module(f"dbsec.report.findings.{form}").FORMAT.render(results))
    raise typer.Exit(_code(results))


def _applied(found: list[Finding], given: Path | None) -> Applied:
    from dbsec import waivers
    from dbsec.clock import SYSTEM

    path = given or Path(waivers.FILE)
    entries = waivers.load(path) if given is not None or path.exists() else []
    return waivers.apply(found, entries, today=SYSTEM.now().date())


def _results(applied: Applied, observed: Observed) -> Results:
    from dbsec.crypto.classification import RULES
    from dbsec.report.findings import NotRead, Results, Words

    unread = [
        NotRead(name, 0, why, "a role that may SELECT it, past row security") for name, why in observed.unread.items()
    ]
    unread += [NotRead(name, 0, "there is no such schema", "psql -c '\\dn'") for name in observed.missing_schemas]
    words = {
        code: Words(code, rule.name, rule.title, rule.severity, rule.effect, rule.instead)
        for code, rule in RULES.items()
    }
    counts = {"columns": len(observed.columns)}
    return Results("crypto classify", [*applied.kept, *applied.own], counts, unread, words, applied.waived)


def _code(results: Results) -> int:
    from dbsec.errors import DbsecError
    from dbsec.findings import Severity

    for unread in results.unread:
        exits.say(DbsecError(f"{unread.file}: {unread.reason}", hint=unread.hint))
    if results.unread:
        return exits.COULD_NOT_TELL
    return exits.FINDINGS if results.number(Severity.ERROR) else exits.CLEAN
