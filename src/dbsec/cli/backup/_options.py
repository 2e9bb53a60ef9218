"""The options that commands of ``dbsec backup`` share, and what they open."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli.migrate import inputs
from dbsec.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from dbsec.backup import BackupSettings, Repository
    from dbsec.config import Config
    from dbsec.pg import Conninfo
    from dbsec.process import Account

File = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="With [backup]; by default dbsec.toml here.")
]
Dsn = Annotated[
    str | None,
    typer.Option("--dsn", metavar="REF", help="The server, as env:NAME or file:PATH of its DSN; else [backup] dsn."),
]
Apply = Annotated[bool, typer.Option("--apply", help="Do it; without it the plan is shown, and nothing is changed.")]


def config_of(file: Path | None) -> Config:
    """Read the file, or dbsec.toml here. Errors: ``ConfigError``."""
    from dbsec.config import load

    here = Path("dbsec.toml")
    return load(file or (here if here.exists() else None))


def settings_of(file: Path | None) -> BackupSettings:
    """Read ``[backup]``. Errors: ``ConfigError``."""
    from dbsec.backup import settings

    return settings.of(config_of(file))


def span(option: str, text: str) -> timedelta:
    """Read ``90s`` or ``5min`` of an option. Errors: ``UsageError``."""
    from dbsec import config

    try:
        found = config.span(text)
    except ValueError as exc:
        raise UsageError(f"{option} '{text[:20]}': {exc}") from exc
    assert isinstance(found, timedelta)
    return found


def repository(settings: BackupSettings) -> Repository:
    """Open the repository of the settings. Errors: those of ``open_repository``."""
    from dbsec.backup import open_repository

    return open_repository(settings, environ=os.environ)


def server(settings: BackupSettings, dsn: str | None) -> Conninfo:
    """Return how the server is reached. Errors: ``ConfigError``."""
    reference = dsn or settings.dsn
    if not reference:
        raise ConfigError("no server is named", hint='--dsn env:NAME or [backup] dsn = "file:..."')
    return inputs.conninfo_of(reference)


def owner(name: str | None, folder: Path) -> Account | None:
    """Return whose the folder will be; None for our own. Errors: ``UsageError``: no server runs as root."""
    from dbsec.process import Account

    if name is None:
        if os.geteuid() == 0:
            raise UsageError(f"PostgreSQL does not run as root: whose is '{folder}' to be?", hint="--owner postgres")
        return None
    try:
        found = Account.named(name)
    except KeyError as exc:
        raise UsageError(f"there is no account '{name}'", hint="getent passwd") from exc
    if not found.is_current and os.geteuid() != 0:
        raise UsageError(f"only root can give the folder to '{name}'", hint=f"run it as '{name}'")
    return None if found.is_current else found
