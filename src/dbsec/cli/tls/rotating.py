"""``dbsec tls rotate``: another certificate, CA or revocation list under a running server; no session ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import output
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.cli.tls import _server as server
from dbsec.cli.tls._findings import pem
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.tls.rotation import Server


class Kind(StrEnum):
    """What ``--server`` takes."""

    POSTGRES = "postgres"
    PGBOUNCER = "pgbouncer"
    MARIADB = "mariadb"


def add(command: typer.Typer) -> None:
    """Add ``rotate``."""
    command.command()(rotate)


def rotate(
    dsn: Annotated[
        str,
        typer.Option(
            "--dsn",
            metavar="REF",
            help="env:NAME or file:PATH: a superuser; PgBouncer's console; mysql://user:...@host",
        ),
    ],
    certificate: Annotated[
        Path, typer.Option(metavar="FILE", help="NAME.crt, with NAME.key beside it: dbsec tls ca issue.")
    ],
    ca: Annotated[Path, typer.Option("--ca", metavar="FILE", help="What clients trust from now on, in PEM.")],
    server_kind: Annotated[Kind, typer.Option("--server", help="What serves it.")] = Kind.POSTGRES,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", metavar="DIR", help="The data directory of PostgreSQL or MariaDB.")
    ] = None,
    ini: Annotated[Path | None, typer.Option(metavar="FILE", help="pgbouncer.ini.")] = None,
    through: Annotated[
        str, typer.Option(metavar="NAME", help="A database that logins go through, for PgBouncer's proof.")
    ] = "",
    client_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Trust client certificates of this CA too: put before the old.")
    ] = None,
    drop_old_ca: Annotated[
        bool, typer.Option("--drop-old-ca", help="... and of no other: when every client has moved.")
    ] = False,
    crl: Annotated[Path | None, typer.Option(metavar="FILE", help="A fresh revocation list.")] = None,
    apply: server.Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Swap the certificate: checked before, proven on the wire and by a login after, put back where that fails.

    Exit code 0: served (or checked, without --apply); 2: it may not be put there; 3: rolled back, with the reason.
    """
    from dbsec.tls import rotation
    from dbsec.tls.settings import pair_of

    change = rotation.Change(pair_of(certificate), pem(ca), _maybe(client_ca), _maybe(crl), drop_old_ca)
    opened = _target(server_kind, dsn, data_dir, ini, through)
    with inputs.refusals(), output.progress() as progress, opened as target:
        if not apply:
            rotation.preflight(target, change)
            served = target.served()
            _tell(form, {"old": served, "new": change.pair.fingerprint, "applied": False})
            return
        done = rotation.rotate(target, change, progress=progress)
    _tell(form, {**asdict(done), "applied": True})


@contextmanager
def _target(kind: Kind, dsn: str, data_dir: Path | None, ini: Path | None, through: str) -> Iterator[Server]:
    """Open the server that was named."""
    if kind is Kind.PGBOUNCER:
        from dbsec.tls.pooler import PgBouncerServer

        if ini is None or not through:
            raise UsageError("PgBouncer is told by its file and a database", hint="--ini FILE --through NAME")
        yield PgBouncerServer(server.admin_of(dsn), ini.absolute(), dbname=through)
        return
    if data_dir is None:
        raise UsageError("its files lie in the data directory", hint="--data-dir DIR")
    if kind is Kind.MARIADB:
        from dbsec.secret import resolve
        from dbsec.tls.data_folder import DataFolder
        from dbsec.tls.mariadb import MariaDbServer, by_pymysql

        connect, host, port = by_pymysql(resolve(dsn, environ=os.environ))
        yield MariaDbServer(connect, DataFolder(data_dir.absolute()), address=host, port=port)
        return
    from dbsec.pg import connect as connected
    from dbsec.tls.rotation import PostgresServer

    admin, folder = server.admin_of(dsn), server.folder_of(data_dir)
    with connected(admin) as connection:
        yield PostgresServer(connection, admin, folder)


def _tell(form: Format, result: dict[str, object]) -> None:
    if form is Format.JSON:
        output.envelope("tls rotate", result=result)
        return
    print(f"certificate  {str(result['old'])[:16]} -> {str(result['new'])[:16]}")
    if not result["applied"]:
        print("all checks hold, and nothing was changed: add --apply")
        return
    print(f"served after {float(str(result['served_after_s'])) * 1000:.0f} ms")
    print(f"{result['sessions_before']} sessions began before: they go on, and end when their clients leave")


def _maybe(path: Path | None) -> bytes | None:
    return pem(path) if path is not None else None
