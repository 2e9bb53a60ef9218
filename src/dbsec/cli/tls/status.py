"""``dbsec tls status`` and ``check``: configuration, wire and sessions side by side, and where they contradict."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import output
from dbsec.cli.migrate import inputs
from dbsec.cli.tls import _server as server
from dbsec.cli.tls._findings import exit_code, pem, tell, words

if TYPE_CHECKING:
    from dbsec.findings import Finding
    from dbsec.report.findings import Results
    from dbsec.tls.status import Status


class Form(StrEnum):
    """What ``--format`` takes here."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    PROMETHEUS = "prometheus"


As = Annotated[Form, typer.Option("--format", help="How to print the result.")]
MaybeDir = Annotated[
    Path | None, typer.Option("--data-dir", metavar="DIR", help="The server's data directory: its files too.")
]


def add(command: typer.Typer) -> None:
    """Add ``status`` and ``check``."""
    command.command()(status)
    command.command()(check)


def status(
    dsn: server.Dsn,
    data_dir: MaybeDir = None,
    ca: Annotated[Path | None, typer.Option("--ca", metavar="FILE", help="What clients trust, in PEM.")] = None,
    textfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also replace this file of node_exporter's collector.")
    ] = None,
    form: As = Form.TEXT,
) -> None:
    """Compare what a server is told, what it does on the wire, and how its sessions are protected.

    Exit code 0: the views agree and no date nears; 1: they do not.
    """
    from dbsec.clock import SYSTEM
    from dbsec.tls import status as views

    with inputs.refusals(), inputs.connected(dsn) as connection:
        seen = views.read(connection, server.folder_of(data_dir) if data_dir else None, ca=pem(ca) if ca else None)
    found = views.judge(seen, now=SYSTEM.now())
    _tell(seen, _results("tls status", found), form, textfile)


def check(
    dsn: server.Dsn,
    data_dir: server.DataDir,
    config: server.File = None,
    form: As = Form.TEXT,
) -> None:
    """Compare a server with [tls] of dbsec.toml, with its policy on the wire, and its three views with each other.

    Exit code 0: all of it holds; 1: something does not. It changes nothing.
    """
    from dbsec.clock import SYSTEM
    from dbsec.tls import prober, server_plan
    from dbsec.tls import status as views
    from dbsec.tls.settings import posture_of

    settings = server.settings_of(config)
    wanted, folder = posture_of(settings), server.folder_of(data_dir)
    with inputs.refusals(), inputs.connected(dsn) as connection:
        planned = server_plan.plan(connection, folder, wanted)
        seen = views.read(connection, folder, ca=wanted.server_ca)
    found = views.judge(seen, now=SYSTEM.now())
    found += prober.judge(seen.wire, prober.policy(settings.policy), now=SYSTEM.now())
    found += [] if planned.empty else [_differs(planned.render())]
    _tell(seen, _results("tls check", found), form, None)


def _differs(plan: str) -> Finding:
    from dbsec.findings import Finding, Severity

    first = plan.splitlines()[0]
    message = f"the server is not as [tls] wants it: {first} ..."
    return Finding("TLS220", "allow-drift", Severity.ERROR, "server", message, "dbsec tls plan")


def _results(command: str, found: list[Finding]) -> Results:
    from dbsec.report.findings import Results
    from dbsec.tls.prober.policy import CHECKS as WIRE
    from dbsec.tls.status import CHECKS as VIEWS

    return Results(command, found, words=words(VIEWS, WIRE))


def _tell(seen: Status, results: Results, form: Form, textfile: Path | None) -> None:
    if textfile is not None or form is Form.PROMETHEUS:
        from dbsec.clock import SYSTEM
        from dbsec.metrics import text, write
        from dbsec.tls.measures import samples

        measured = samples(seen, len(results.findings), now=SYSTEM.now())
        if textfile is not None:
            write(textfile, measured)
        if form is Form.PROMETHEUS:
            print(text(measured), end="")
    if form is Form.JSON:
        found = [one.to_json() for one in results.findings]
        output.envelope(results.command, result=seen.to_json(), findings=found)
    elif form is not Form.PROMETHEUS:
        if form is Form.TEXT:
            _show(seen)
        tell(results, form)
    raise typer.Exit(exit_code(results))


def _show(seen: Status) -> None:
    from dbsec.tls.status import clear_paths

    configured, wire = seen.configured, seen.wire
    rows = [("", "configuration", "wire")]
    served = wire.chain[0] if wire.chain else None
    on_disk = (configured.disk_fingerprint or "not read")[:16]
    rows.append(("TLS", configured.settings.get("ssl", ""), "offered" if wire.tls else "not offered"))
    rows.append(("certificate", on_disk, served.fingerprint[:16] if served else "none"))
    rows.append(("until", _day(configured.not_after), _day(served.not_after if served else None)))
    least = configured.settings.get("ssl_min_protocol_version", "")
    rows.append(("least version", least, min(wire.suites, default="none")))
    paths = len(list(clear_paths(configured.rules)))
    rows.append(("in clear", f"{paths} lines let it begin", str(wire.plaintext)))
    until = configured.crl_next_update
    rows.append(("CRL until", f"{until:%F %R} UTC" if until else "none", ""))
    for name, left, right in rows:
        print(f"{name:<14} {left:<28} {right}".rstrip())
    sessions = ", ".join(f"{count} {name}" for name, count in sorted(seen.protections().items())) or "none"
    print(f"{'sessions':<14} {sessions}\n")


def _day(moment: datetime | None) -> str:
    return f"{moment:%F}" if moment else ""
