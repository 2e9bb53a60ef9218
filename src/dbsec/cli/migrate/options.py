"""The options that commands of ``dbsec migrate`` share, and the choices that they take."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dbsec import discovery
from dbsec.cli.output import Format
from dbsec.report import findings

Form = StrEnum("Form", {name.upper(): name for name in discovery.names_in(findings)})  # type: ignore[misc]
TEXT = Form("text")


class Transaction(StrEnum):
    """Who opens a transaction around a file."""

    AUTO = "auto"
    NONE = "none"
    FILE = "file"


class Source(StrEnum):
    """Where a server for a replay comes from; that of dbsec.pg.binaries would bring the driver."""

    WHEEL = "wheel"
    SYSTEM = "system"
    PG0 = "pg0"


Paths = Annotated[list[str], typer.Argument(metavar="PATH", help="Files and folders of migrations; - is stdin.")]
Dsn = Annotated[str | None, typer.Option("--dsn", metavar="REF", help="A server, as env:NAME or file:PATH of its DSN.")]
Schema = Annotated[Path | None, typer.Option("--schema", metavar="FILE", help="The deployed schema: pg_dump -s.")]
Output = Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Write there, not to stdout.")]
Version = Annotated[str | None, typer.Option("--pg-version", help="14 to 18; by default the schema's, else 18.")]
Wrapped = Annotated[Transaction, typer.Option(help="What opens a transaction around a file; auto: as its tool does.")]
Since = Annotated[
    str | None, typer.Option("--changed-since", metavar="REV", help="Only files changed since; the rest is deployed.")
]
Postgres = Annotated[Source, typer.Option(help="What is started: wheel (17), the newest of the system, or pg0 (18).")]
As = Annotated[Format, typer.Option("--format", help="text or json")]
