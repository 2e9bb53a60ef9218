"""The options that commands of ``dbsec crypto`` share, and what they open."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli.migrate import inputs

if TYPE_CHECKING:
    from dbsec.crypto import CryptoSettings, Envelope
    from dbsec.crypto.opening import Connect
    from dbsec.kms import KmsAdmin

Dsn = Annotated[str, typer.Option("--dsn", metavar="REF", help="The database, as env:NAME or file:PATH of its DSN.")]
File = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="With [crypto]; by default dbsec.toml here.")
]
Apply = Annotated[bool, typer.Option("--apply", help="Do it; without it the plan is shown, and nothing is changed.")]

Admin = Annotated[
    str | None,
    typer.Option("--admin", metavar="URI", help="The KMS with an administrator's credentials; else [crypto] kms."),
]

Workers = Annotated[int, typer.Option(min=1, max=64, help="Sessions that take batches; other hosts may help.")]
Leave = Annotated[
    bool, typer.Option("--leave-unreadable", help="Go on without rows that cannot be read, and name them.")
]


def settings_of(file: Path | None) -> CryptoSettings:
    """Read ``[crypto]`` of the file, or of dbsec.toml here. Errors: ``ConfigError``."""
    from dbsec.config import load
    from dbsec.crypto import settings

    here = Path("dbsec.toml")
    return settings.of(load(file or (here if here.exists() else None)))


def opens(dsn: str) -> Connect:
    """Return what opens a session of the database that a reference names. Errors: ``ConfigError``."""
    from dbsec.pg import connect

    return partial(connect, inputs.conninfo_of(dsn))


def envelope(settings: CryptoSettings, dsn: str) -> Envelope:
    """Open the envelope of the settings. Errors: ``ConfigError``, ``ProgramMissing``."""
    from dbsec.crypto import open_envelope

    return open_envelope(settings, opens(dsn), os.environ)


def admin_of(settings: CryptoSettings, uri: str | None, tenant: str) -> KmsAdmin:
    """Open the administrator of a KEK: of ``--admin``, else with what the settings name; a template by tenant."""
    from dbsec.kms import open_admin
    from dbsec.kms.uri import TENANT

    uri = uri or settings.kms
    return open_admin(uri, environ=os.environ, tenant=tenant if TENANT in uri else "")
