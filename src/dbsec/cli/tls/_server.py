"""The options of commands that look at a server, or change it, from its own machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli.backup import _options as options
from dbsec.cli.migrate import inputs
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.pg import Conninfo
    from dbsec.tls.data_folder import DataFolder
    from dbsec.tls.settings import TlsSettings

File = options.File
Dsn = Annotated[
    str, typer.Option("--dsn", metavar="REF", help="A superuser, over the network, as env:NAME or file:PATH.")
]
DataDir = Annotated[Path, typer.Option("--data-dir", metavar="DIR", help="The server's data directory.")]
Apply = Annotated[bool, typer.Option("--apply", help="Do it; without this the plan is printed.")]
Transitional = Annotated[
    bool, typer.Option("--transitional", help="Still let everyone in, in clear too: until all clients have moved.")
]


def settings_of(file: Path | None) -> TlsSettings:
    """Read ``[tls]``. Errors: ``ConfigError``."""
    from dbsec.tls import settings

    return settings.of(options.config_of(file))


def admin_of(reference: str) -> Conninfo:
    """Read the login. Errors: ``UsageError`` for a Unix socket: what is served is proven on the network."""
    admin = inputs.conninfo_of(reference)
    if admin.host.startswith("/"):
        raise UsageError("the certificate is proven on the network", hint="host=... in the DSN, not a socket's folder")
    return admin


def folder_of(path: Path) -> DataFolder:
    """Return the data folder. Errors: ``UsageError``."""
    from dbsec.tls.data_folder import DataFolder

    if not (path / "PG_VERSION").exists():
        raise UsageError(f"'{path}' is no data directory, or is not open to you", hint="SHOW data_directory")
    return DataFolder(path.absolute())
