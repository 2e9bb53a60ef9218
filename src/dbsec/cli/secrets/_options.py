"""Where commands of ``dbsec secrets`` take secrets from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli.backup import _options as options
from dbsec.cli.output import Format

if TYPE_CHECKING:
    from dbsec.secrets import Provider

File = options.File
Name = Annotated[str, typer.Argument(metavar="NAME", help="The secret, or the role of the database engine.")]
Source = Annotated[
    str,
    typer.Option(metavar="URI", help="env:, file:/path.json or vault://host:port/MOUNT?...; else [secrets] source."),
]
Reveal = Annotated[bool, typer.Option("--reveal", help="Print what is secret.")]
As = Annotated[Format, typer.Option("--format", help="How to print the result.")]


def opened(source: str, file: Path | None) -> Provider:
    """Open the source that was named, else that of dbsec.toml. Errors: ``ConfigError``, ``ProgramMissing``."""
    from dbsec.secrets import open_secrets, settings

    return open_secrets(source or settings.of(options.config_of(file)).source, environ=os.environ)
