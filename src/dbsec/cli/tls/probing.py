"""``dbsec tls probe``: what a server offers on the wire, and whether a policy allows it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import output
from dbsec.cli.tls._findings import Form, exit_code, pem, tell, words
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.findings import Finding
    from dbsec.report.findings import Results
    from dbsec.tls.prober import Probe


class Spoken(StrEnum):
    """What ``--protocol`` takes."""

    AUTO = "auto"
    POSTGRES = "postgres"
    POSTGRES_DIRECT = "postgres-direct"
    MYSQL = "mysql"


def add(command: typer.Typer) -> None:
    """Add ``probe``."""
    command.command()(probe)


def probe(
    server: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where the server listens; [::1]:5432 for IPv6.")],
    protocol: Annotated[Spoken, typer.Option(help="PgBouncer speaks postgres.")] = Spoken.AUTO,
    policy: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="modern, intermediate, or a TOML file of yours.")
    ] = "intermediate",
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="PEM: judge the certificate as verify-full would.")
    ] = None,
    user: Annotated[str, typer.Option(metavar="ROLE", help="Begin a login in clear as this role.")] = "postgres",
    database: Annotated[str, typer.Option(metavar="NAME", help="... to this database.")] = "postgres",
    timeout: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="For each answer.")] = 5.0,
    form: Annotated[Form, typer.Option("--format", help="How to print the result.")] = Form.TEXT,
) -> None:
    """Find every version, cipher suite and group that a server takes, its certificate, and whether it talks in clear.

    Needs no password and makes no login; each handshake is a line in PostgreSQL's log. Exit code 0: the policy allows
    all of it; 1: it does not; 3: there was no answer.
    """
    from dbsec.clock import SYSTEM
    from dbsec.tls import prober
    from dbsec.tls.prober.greeting import Target

    wanted = prober.policy(policy)
    host, port = place_of(server)
    target = Target(host, port, prober.Protocol(protocol), user, database, timeout)
    with output.progress() as progress:
        seen = prober.probe(target, ca=pem(ca) if ca else None, progress=progress)
    results = _results(seen, prober.judge(seen, wanted, now=SYSTEM.now()))
    if form is Form.JSON:
        output.envelope("tls probe", result=seen.to_json(), findings=[one.to_json() for one in results.findings])
    else:
        if form is Form.TEXT:
            _show(seen)
        tell(results, form)
    raise typer.Exit(exit_code(results))


def place_of(server: str) -> tuple[str, int]:
    """Read HOST:PORT. Errors: ``UsageError``."""
    host, colon, port = server.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"'{server}' is not HOST:PORT", hint="dbsec tls probe db.example.com:5432")
    return host.strip("[]"), int(port)


def _results(seen: Probe, found: list[Finding]) -> Results:
    from dbsec.report.findings import Results
    from dbsec.tls.prober.policy import CHECKS

    return Results("tls probe", found, {"handshakes": seen.handshakes}, words=words(CHECKS))


_CHOOSES = {True: ", the server chooses", False: ", the client chooses", None: ""}


def _show(seen: Probe) -> None:
    """Print what was seen, before what is wrong with it."""
    target = seen.target
    print(f"{target.host}:{target.port}  {target.protocol}, {seen.handshakes} handshakes in {seen.seconds:.2f} s\n")
    rows = [("in clear", f"{seen.plaintext}: {seen.plaintext_words}")]
    rows += [(label, f"refused: {why}") for label, why in seen.refused.items()]
    for label, suites in seen.suites.items():
        chosen = _CHOOSES[seen.server_orders.get(label)]
        rows.append((label, f"{len(suites)} suites{chosen}"))
        rows += [("", f"  {suite.name}  {' '.join(sorted(suite.faults))}".rstrip()) for suite in suites]
    rows += [("groups", ", ".join(seen.groups))] if seen.groups else []
    rows += [(name, value) for name, value in _traits(seen)]
    for place, one in enumerate(seen.chain):
        key = f"{one.key_kind} {one.key_bits}"
        rows.append(("certificate" if place == 0 else "", f"{one.subject}, {key}, until {one.not_after:%F}"))
        rows += [("", f"  for {', '.join(one.names)}")] if one.names else []
    rows += [("verify-full", f"{seen.trust.reason} (code {seen.trust.verify_code})")] if seen.trust else []
    for name, value in rows:
        print(f"{name:<13} {value}")
    print()


def _traits(seen: Probe) -> list[tuple[str, str]]:
    said = {True: "yes", False: "no"}
    traits = {
        "direct TLS": seen.direct,
        "ALPN checked": seen.alpn if seen.direct is not None else None,
        "asks for cert": seen.asks_certificate,
        "EMS": seen.extended_master_secret,
    }
    shown = [(name, said[value]) for name, value in traits.items() if value is not None]
    return shown + ([("DHE prime", f"{seen.dh_bits} bits")] if seen.dh_bits else [])
