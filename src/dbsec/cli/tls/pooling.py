"""``dbsec tls apply-pooler`` and ``check-pooler``: PgBouncer's TLS, to clients and to servers."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import output
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.cli.tls import _server as server
from dbsec.cli.tls._findings import Form, exit_code, pem, tell
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.tls.pooler_plan import PoolerPosture

Ini = Annotated[Path, typer.Argument(metavar="FILE", help="pgbouncer.ini")]


def add(command: typer.Typer) -> None:
    """Add ``apply-pooler`` and ``check-pooler``."""
    command.command("apply-pooler")(apply_pooler)
    command.command("check-pooler")(check_pooler)


def apply_pooler(
    ini: Ini,
    console: Annotated[
        str, typer.Option(metavar="REF", help="A login of its console, as env:NAME or file:PATH, that may come back.")
    ],
    through: Annotated[
        str, typer.Option(metavar="REF", help="A client's DSN, with its certificate where one will be asked for.")
    ],
    certificate: Annotated[
        Path, typer.Option(metavar="FILE", help="What clients are shown: NAME.crt, with NAME.key beside it.")
    ],
    ca: Annotated[Path, typer.Option("--ca", metavar="FILE", help="What clients check it by, in PEM.")],
    server_ca: Annotated[Path, typer.Option(metavar="FILE", help="What PostgreSQL is checked by, in PEM.")],
    client_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ask clients for a certificate of this CA.")
    ] = None,
    gateway: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Shown to PostgreSQL: NAME.crt, its name that of the login.")
    ] = None,
    auth_user: Annotated[
        str, typer.Option(metavar="ROLE", help="Look passwords up as this role (auth_query), which is in auth_file.")
    ] = "",
    admin: Annotated[
        str | None, typer.Option(metavar="REF", help="A superuser of the pooled database: makes auth_query's function.")
    ] = None,
    apply: server.Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Bring PgBouncer to TLS on both sides: SCRAM, verify-full to the server; other lines of its file stay.

    Proven on the wire after RELOAD: the certificate, a login by verify-full, a login in clear that is refused; put back
    where any of it fails. Exit code 0: done, or nothing to do, or planned; 3: rolled back.
    """
    from dbsec.tls import pooler_plan
    from dbsec.tls.data_folder import DataFolder

    if bool(auth_user) != (admin is not None):
        raise UsageError("auth_query needs a role and whoever makes its function", hint="--auth-user ROLE --admin REF")
    wanted = replace(_posture(certificate, ca, server_ca, client_ca, gateway), auth_user=auth_user)
    folder = DataFolder(ini.absolute().parent)
    login, client = server.admin_of(console), server.admin_of(through)
    with inputs.refusals(), output.progress() as progress:
        if apply:
            pooler_plan.recover(login, folder, ini.name)
            if admin is not None:
                with inputs.connected(admin) as connection:
                    pooler_plan.install_auth_query(connection, auth_user)
        planned = pooler_plan.plan(folder, ini.name, wanted)
        done = apply and not planned.empty
        if done:
            pooler_plan.apply(login, planned, folder, through=client, progress=progress)
    if form is Format.JSON:
        output.envelope("tls apply-pooler", result={"empty": planned.empty, "applied": done, "plan": planned.render()})
        return
    sys.stdout.write(planned.render())
    if not planned.empty:
        print("applied, and proven" if done else "nothing was changed: add --apply")


def _posture(
    certificate: Path, ca: Path, server_ca: Path, client_ca: Path | None, gateway: Path | None
) -> PoolerPosture:
    from dbsec.tls.pooler_plan import PoolerPosture
    from dbsec.tls.settings import pair_of

    return PoolerPosture(
        pair_of(certificate),
        pem(ca),
        pem(server_ca),
        pem(client_ca) if client_ca else None,
        pair_of(gateway) if gateway else None,
    )


def check_pooler(
    ini: Ini, form: Annotated[Form, typer.Option("--format", help="How to print the result.")] = Form.TEXT
) -> None:
    """Name what PgBouncer's TLS lets through: what is set so, and what no setting of it can mend.

    Exit code 0: nothing that a setting could mend; 1: something.
    """
    from dbsec.report.findings import Results
    from dbsec.tls import pooler

    found = pooler.check(pooler.read(ini), target=str(ini))
    results = Results("tls check-pooler", found)
    if form is Form.JSON:
        output.envelope("tls check-pooler", result={}, findings=[one.to_json() for one in found])
    else:
        tell(results, form)
    raise typer.Exit(exit_code(results))
