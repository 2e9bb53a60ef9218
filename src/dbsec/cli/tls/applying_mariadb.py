"""``dbsec tls apply-mariadb``: TLS only for a MariaDB, proven on the wire, or as it was."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dbsec.cli import output
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.cli.tls import _server as server
from dbsec.cli.tls._findings import pem
from dbsec.errors import UsageError


def add(command: typer.Typer) -> None:
    """Add ``apply-mariadb``."""
    command.command("apply-mariadb")(apply_mariadb)


def apply_mariadb(
    dsn: Annotated[
        str, typer.Option("--dsn", metavar="REF", help="mysql://user:...@host:port/ by env:NAME or file:PATH.")
    ],
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where certificate and key will lie, open to the server alone.")
    ],
    option_file: Annotated[
        Path, typer.Option(metavar="FILE", help="An option file of dbsec's own: /etc/mysql/conf.d/dbsec-tls.cnf.")
    ],
    certificate: Annotated[Path, typer.Option(metavar="FILE", help="NAME.crt, with NAME.key beside it.")],
    ca: Annotated[Path, typer.Option("--ca", metavar="FILE", help="What clients check it by, in PEM.")],
    client_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who signs client certificates; by default --ca.")
    ] = None,
    crl: Annotated[Path | None, typer.Option(metavar="FILE", help="Its revocation list, read at a start.")] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(metavar="ACCOUNT=WHAT", help="app@%=SSL, mtls@%=X509, mtls@%=\"SUBJECT '/CN=mtls'\"."),
    ] = None,
    cipher: Annotated[str, typer.Option(metavar="LIST", help="Suites of TLS 1.2, in OpenSSL's names.")] = "",
    apply: server.Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Write option file and certificate, reload, and require TLS of everyone and certificates of some accounts.

    What needs a restart is said, and nothing is required before it: run it again after. The login must come back by the
    new certificate, or all is put back. Exit code 0: done, planned or waiting for a restart; 3: rolled back.
    """
    from dbsec.secret import resolve
    from dbsec.tls import mariadb_plan, prober
    from dbsec.tls.data_folder import DataFolder
    from dbsec.tls.mariadb import by_pymysql
    from dbsec.tls.prober.greeting import Target
    from dbsec.tls.settings import pair_of

    posture = mariadb_plan.MariaPosture(
        pair_of(certificate),
        pem(ca),
        pem(client_ca or ca),
        pem(crl) if crl else None,
        mariadb_plan.demands(_pairs(require or [])),
        cipher=cipher,
    )
    connect, host, port = by_pymysql(resolve(dsn, environ=os.environ))
    folder = DataFolder(directory.absolute())
    with output.progress() as progress:
        tls = prober.served(Target(host, port, prober.Protocol.MYSQL)) is not None
        planned = mariadb_plan.plan(connect, folder, option_file.absolute(), posture, tls=tls)
        whole = False
        if apply and not planned.empty:
            whole = mariadb_plan.apply(connect, folder, planned, address=host, port=port, progress=progress)
    if form is Format.JSON:
        result = {"empty": planned.empty, "applied": whole, "restart": planned.restart, "plan": planned.render()}
        output.envelope("tls apply-mariadb", result=result)
        return
    sys.stdout.write(planned.render())
    if whole:
        print("applied, and proven")
    elif apply and planned.restart:
        print("written: restart the server, then apply again")
    elif not planned.empty:
        print("nothing was changed: add --apply")


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    if bad := [name for name, sign, what in pairs if not (sign and what)]:
        raise UsageError(f"'{bad[0]}' is no ACCOUNT=WHAT", hint="--require app@%=SSL")
    return {name: what for name, _, what in pairs}
