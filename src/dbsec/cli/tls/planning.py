"""``dbsec tls plan`` and ``apply``: bring a PostgreSQL to TLS only, proven on the wire, or leave it as it was."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbsec.cli import exits, output
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.cli.tls import _server as server

if TYPE_CHECKING:
    from dbsec.tls.posture import Posture
    from dbsec.tls.server_plan import Plan


def add(command: typer.Typer) -> None:
    """Add ``plan`` and ``apply``."""
    command.command()(plan)
    command.command()(apply)


def plan(
    dsn: server.Dsn,
    data_dir: server.DataDir,
    config: server.File = None,
    transitional: server.Transitional = False,
    form: As = Format.TEXT,
) -> None:
    """Show what would change of a server: certificate, settings, pg_hba.conf as a diff. It changes nothing.

    [tls] of dbsec.toml says what is wanted. Exit code 0: the server is as wanted; 1: it is not.
    """
    from dbsec.tls.settings import posture_of

    wanted = posture_of(server.settings_of(config), transitional=transitional)
    planned = _planned(dsn, data_dir, wanted)
    if form is Format.JSON:
        output.envelope("tls plan", result=_shown(planned))
    else:
        sys.stdout.write(planned.render())
    raise typer.Exit(exits.CLEAN if planned.empty else exits.FINDINGS)


def apply(
    dsn: server.Dsn,
    data_dir: server.DataDir,
    config: server.File = None,
    transitional: server.Transitional = False,
    drain: Annotated[
        str, typer.Option(metavar="SPAN", help="Then wait so long for sessions in clear, and end those left.")
    ] = "",
    apply: server.Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Carry the plan out: TLS under the old pg_hba.conf first, then the new one; each is proven before the next.

    The login of --dsn must come back over verify-full, or everything is put back. A run that was killed is put back by
    the next. Exit code 0: done, or nothing to do; 3: rolled back, with the reason.
    """
    from dbsec.cli.backup import _options as options
    from dbsec.pg import connect
    from dbsec.tls import server_config
    from dbsec.tls.sessions import drain_plaintext
    from dbsec.tls.settings import posture_of

    wanted = posture_of(server.settings_of(config), transitional=transitional)
    admin, folder = server.admin_of(dsn), server.folder_of(data_dir)
    with inputs.refusals(), output.progress() as progress:
        if apply:
            server_config.recover(admin, folder, progress=progress)
        planned = _planned(dsn, data_dir, wanted)
        done = server_config.apply(admin, folder, planned, progress=progress) if apply and not planned.empty else None
        drained = None
        if apply and drain:
            span = options.span("--drain", drain)
            with connect(admin.but(sslmode="require")) as connection:
                drained = drain_plaintext(connection, deadline_s=span.total_seconds(), progress=progress)
    if form is Format.JSON:
        seconds = done.served_after_s if done else None
        result = {**_shown(planned), "applied": done is not None, "served_after_s": seconds}
        output.envelope("tls apply", result=result | ({"terminated": drained.terminated} if drained else {}))
        return
    sys.stdout.write(planned.render())
    if done is not None:
        print(f"applied: the certificate is served after {done.served_after_s * 1000:.0f} ms, and the login came back")
    elif not planned.empty:
        print("nothing was changed: add --apply")
    if drained is not None:
        print(f"sessions in clear: {drained.left_by_themselves} left by themselves, {drained.terminated} were ended")


def _planned(dsn: str, data_dir: Path, wanted: Posture) -> Plan:
    from dbsec.pg import connect
    from dbsec.tls import server_plan

    admin, folder = server.admin_of(dsn), server.folder_of(data_dir)
    with connect(admin) as connection:
        return server_plan.plan(connection, folder, wanted)


def _shown(planned: Plan) -> dict[str, Any]:
    return {
        "empty": planned.empty,
        "certificate": {"old": planned.certificate_old, "new": planned.certificate_new},
        "settings": [{"name": c.name, "old": c.old, "new": c.new} for c in planned.settings],
        "hba_changes": planned.hba_old != planned.hba_new,
        "client_ca_changes": planned.client_ca_changes,
        "crl_changes": planned.crl_changes,
        "plan": planned.render(),
    }
