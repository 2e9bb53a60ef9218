"""``dbsec tls dsn-lint``: which bad servers the clients of these files and DSNs would accept."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.tls._findings import exit_code, tell, words
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.findings import Finding
    from dbsec.report.findings import Results
    from dbsec.tls.dsn_lint import Dsn, Unread
    from dbsec.waivers import Applied


class Form(StrEnum):
    """What ``--format`` takes here."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    GITHUB = "github"
    GITLAB = "gitlab"


def add(command: typer.Typer) -> None:
    """Add ``dsn-lint``."""
    command.command("dsn-lint")(dsn_lint)


def dsn_lint(
    given: Annotated[
        list[str], typer.Argument(metavar="PATH|DSN", help="Files, folders, a DSN, env:NAME of one, or - for stdin.")
    ],
    pooler: Annotated[bool, typer.Option("--pooler", help="They dial PgBouncer: no channel binding reaches.")] = False,
    waivers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Accepted findings; by default dbsec-waivers.toml here.")
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="How to print the result.")] = Form.TEXT,
) -> None:
    """Read DSNs out of files, and tell what each would accept: no TLS, any certificate, another host's, a question.

    A password is never shown. Exit code 0: they accept none of it; 1: some do; 3: a file could not be read.
    """
    from dbsec.tls import dsn_lint as lint

    found = list(_found(given))
    unread = [one for one in found if isinstance(one, lint.Unread)]
    dsns = [one for one in found if not isinstance(one, lint.Unread)]
    applied = _applied([finding for dsn in dsns for finding in lint.judge(dsn, pooler=pooler)], waivers)
    results = _results(applied, dsns, unread)
    if form is Form.JSON:
        shown = [{"dsn": dsn.written(), "driver": str(dsn.driver), "accepts": _accepts(dsn)} for dsn in dsns]
        findings = [one.to_json() for one in results.findings]
        output.envelope("tls dsn-lint", result={"dsns": shown}, findings=findings)
    else:
        tell(results, form)
    raise typer.Exit(_code(results))


def _found(given: list[str]) -> Iterator[Dsn | Unread]:
    from dbsec.tls import dsn_lint as lint

    for one in given:
        if one == "-":
            yield lint.parse(sys.stdin.read())
        elif one.startswith("env:"):
            yield lint.parse(_variable(one.removeprefix("env:")))
        elif Path(one).exists() or not ("://" in one or "=" in one):
            yield from lint.read([Path(one)])
        else:
            dsn = lint.parse(one)
            if dsn.has_password:
                print("dbsec: a password on the command line is seen by every account: use env:NAME", file=sys.stderr)
            yield dsn


def _variable(name: str) -> str:
    if name not in os.environ:
        raise UsageError(f"the environment has no '{name}'")
    return os.environ[name]


def _accepts(dsn: Dsn) -> list[str]:
    from dbsec.tls.dsn_lint import accepted

    return sorted(map(str, accepted(dsn)))


def _applied(found: list[Finding], given: Path | None) -> Applied:
    from dbsec import waivers
    from dbsec.clock import SYSTEM

    path = given or Path(waivers.FILE)
    entries = waivers.load(path) if given is not None or path.exists() else []
    return waivers.apply(found, entries, today=SYSTEM.now().date())


def _results(applied: Applied, dsns: list[Dsn], unread: list[Unread]) -> Results:
    from dbsec.report.findings import NotRead, Results
    from dbsec.tls.dsn_lint import CHECKS

    not_read = [NotRead(one.path, 0, one.reason) for one in unread]
    kept = [*applied.kept, *applied.own]
    return Results("tls dsn-lint", kept, {"DSNs": len(dsns)}, not_read, words(CHECKS), applied.waived)


def _code(results: Results) -> int:
    from dbsec.errors import DbsecError

    for one in results.unread:
        exits.say(DbsecError(f"'{one.file}' was not read: {one.reason}"))
    return exit_code(results) or (exits.COULD_NOT_TELL if results.unread else exits.CLEAN)
