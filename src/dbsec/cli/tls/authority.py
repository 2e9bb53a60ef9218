"""``dbsec tls ca``: a private CA, the certificates that it issues, and the list of those that it has revoked."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbsec.cli import output
from dbsec.cli.backup import _options as options
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from cryptography import x509

    from dbsec.tls.ca import KeyPair
    from dbsec.tls.issuers import Issued

_HELP = "A private CA, the certificates that it issues, and the list of those that it has revoked."
CA = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=_HELP)


class Kind(StrEnum):
    """What keys are made of: RSA is for clients that know no elliptic curve."""

    EC = "ec"
    RSA = "rsa"


class Use(StrEnum):
    """Whom a certificate is for."""

    SERVER = "server"
    CLIENT = "client"


From = Annotated[
    str,
    typer.Option(
        "--issuer", metavar="DIR|URI", help="A CA's folder, or vault-pki://host:port/MOUNT/ROLE?ca=FILE&token=file:FILE"
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where NAME.crt and NAME.key are written.")]


def add(command: typer.Typer) -> None:
    """Add ``ca``."""
    command.add_typer(CA, name="ca")


@CA.command()
def create(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of its own; made with mode 0700.")],
    name: Annotated[str, typer.Option(help="Its common name.")] = "dbsec CA",
    days: Annotated[int, typer.Option(min=1, max=36500, help="How long it is good.")] = 3650,
    key: Annotated[Kind, typer.Option(help="ec is P-256, rsa is RSA of 3072 bits.")] = Kind.EC,
    form: As = Format.TEXT,
) -> None:
    """Make a CA; it may sign certificates and lists, and no further CA."""
    from dbsec.tls.ca import KeyKind
    from dbsec.tls.issuers.folder import CaFolder

    made = CaFolder.create(folder, name, days=days, kind=KeyKind(key))
    _say(form, "tls ca create", {"ca": str(made.folder / "ca.crt"), "key": str(made.folder / "ca.key")})


@CA.command()
def issue(
    use: Annotated[Use, typer.Argument(help="server or client")],
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Host names and addresses, or one database role.")],
    issuer: From,
    out: Out,
    file: Annotated[
        str | None, typer.Option("--file", metavar="NAME", help="By default 'server', or the role.")
    ] = None,
    lifetime: Annotated[str, typer.Option(metavar="SPAN", help="90d, 12h; by default 90d, for clients 7d.")] = "",
    replaces: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Lose no name of the certificate that is served there.")
    ] = None,
    form: As = Format.TEXT,
) -> None:
    """Issue a certificate with a new key; all of it is checked before anything is written."""
    from dbsec.tls.issuers import open_issuer, placing

    span = options.span("--lifetime", lifetime or ("90d" if use is Use.SERVER else "7d"))
    if use is Use.CLIENT and len(names) != 1:
        raise UsageError("a client certificate is for one role", hint="dbsec tls ca issue client app_gateway ...")
    covers = _served(replaces) if replaces else ()
    source = open_issuer(issuer, environ=os.environ)
    issued = source.issue_server(names, span) if use is Use.SERVER else source.issue_client(names[0], span)
    _check(issued, use, covers)
    name = _file_name(file or ("server" if use is Use.SERVER else names[0]))
    out.mkdir(parents=True, exist_ok=True)
    placing.place(out, name, issued.pair, replace=False)
    _say(form, "tls ca issue", _told(issued.pair, out, name))


@CA.command()
def adopt(
    use: Annotated[Use, typer.Argument(help="server or client")],
    certificate: Annotated[Path, typer.Argument(metavar="CRT", help="In PEM, of whatever CA.")],
    key: Annotated[Path, typer.Argument(metavar="KEY", help="In PEM, without a passphrase.")],
    trusted: Annotated[Path, typer.Option("--ca", metavar="FILE", help="The CA that the other side trusts.")],
    out: Out,
    file: Annotated[str | None, typer.Option(metavar="NAME", help="By default the name of CRT.")] = None,
    replaces: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Lose no name that is served there.")
    ] = None,
    form: As = Format.TEXT,
) -> None:
    """Check a certificate that another CA has issued, and put it and its key where a server takes them from."""
    from dbsec.tls.ca import KeyPair
    from dbsec.tls.issuers import Issued, placing

    try:
        issued = Issued(KeyPair(certificate.read_bytes(), key.read_bytes()), trusted.read_bytes())
    except OSError as exc:
        raise ConfigError(f"cannot read '{exc.filename}': {exc.strerror}") from exc
    _check(issued, use, _served(replaces) if replaces else ())
    name = _file_name(file or certificate.name.removesuffix(".crt").removesuffix(".pem"))
    out.mkdir(parents=True, exist_ok=True)
    placing.place(out, name, issued.pair, replace=False)
    _say(form, "tls ca adopt", _told(issued.pair, out, name))


@CA.command()
def renew(
    certificate: Annotated[Path, typer.Argument(metavar="FILE", help="NAME.crt; NAME.key lies beside it.")],
    issuer: From,
    lifetime: Annotated[str, typer.Option(metavar="SPAN", help="By default as long as the one before.")] = "",
    form: As = Format.TEXT,
) -> None:
    """Replace a certificate by one for the same names with a new key; both files change, or none."""
    from dbsec.tls.issuers import checks, open_issuer, placing

    folder, name = certificate.parent, certificate.name.removesuffix(".crt")
    old = placing.read(folder, name).x509
    span = options.span("--lifetime", lifetime) if lifetime else old.not_valid_after_utc - old.not_valid_before_utc
    use = _use_of(old)
    source = open_issuer(issuer, environ=os.environ)
    kept = checks.names(old)
    issued = source.issue_server(kept, span) if use is Use.SERVER else source.issue_client(_common_name(old), span)
    _check(issued, use, kept if use is Use.SERVER else ())
    placing.place(folder, name, issued.pair, replace=True)
    _say(form, "tls ca renew", _told(issued.pair, folder, name))


@CA.command()
def revoke(
    certificate: Annotated[str, typer.Argument(metavar="FILE|SERIAL", help="The certificate, or its serial in hex.")],
    issuer: From,
    form: As = Format.TEXT,
) -> None:
    """Revoke a certificate; it counts where servers have read the next list (dbsec tls ca crl)."""
    from dbsec.tls.issuers import open_issuer

    serial = _serial(certificate)
    open_issuer(issuer, environ=os.environ).revoke(serial)
    _say(form, "tls ca revoke", {"serial": f"{serial:x}", "next": "dbsec tls ca crl"})


@CA.command()
def crl(
    issuer: From,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the list goes, atomically.")],
    lifetime: Annotated[
        str, typer.Option(metavar="SPAN", help="Until nextUpdate; past it servers refuse every client certificate.")
    ] = "7d",
    form: As = Format.TEXT,
) -> None:
    """Sign a fresh list of what was revoked; its number grows."""
    from cryptography import x509

    from dbsec import files
    from dbsec.tls.issuers import open_issuer

    made = open_issuer(issuer, environ=os.environ).crl(options.span("--lifetime", lifetime))
    listed = x509.load_pem_x509_crl(made)
    files.write_atomic(out, made, mode=0o644)
    until = listed.next_update_utc
    _say(
        form, "tls ca crl", {"crl": str(out), "revoked": len(listed), "next_update": f"{until:%FT%RZ}" if until else ""}
    )


def _check(issued: Issued, use: Use, covers: tuple[str, ...]) -> None:
    from dbsec.clock import SYSTEM
    from dbsec.tls.ca import CLIENT, SERVER
    from dbsec.tls.issuers import checks

    oid = SERVER if use is Use.SERVER else CLIENT
    checks.check(issued.pair, issued.ca, use=oid, now=SYSTEM.now(), covers=covers)


def _served(place: str) -> tuple[str, ...]:
    """Return the names of the certificate that is served now."""
    from dbsec.cli.tls.probing import place_of
    from dbsec.tls import prober
    from dbsec.tls.prober.greeting import Target

    host, port = place_of(place)
    chain = prober.probe(Target(host, port, prober.Protocol.AUTO)).chain
    if not chain:
        raise ConfigError(f"no certificate is served at {place}", hint=f"dbsec tls probe {place}")
    return chain[0].names


def _file_name(name: str) -> str:
    if "/" in name or name.startswith(".") or not name.isprintable():
        raise UsageError(f"'{name}' is no name of a file", hint="--file NAME")
    return name


def _use_of(certificate: x509.Certificate) -> Use:
    from dbsec.tls.issuers import checks

    return Use.SERVER if checks.names(certificate) else Use.CLIENT


def _common_name(certificate: x509.Certificate) -> str:
    from cryptography.x509.oid import NameOID

    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not found:
        raise ConfigError("the certificate has no common name to renew it for")
    return str(found[0].value)


def _serial(given: str) -> int:
    from cryptography import x509

    path = Path(given)
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).serial_number if path.exists() else int(given, 16)
    except ValueError as exc:
        raise UsageError(f"'{given}' is neither a certificate in PEM nor a serial in hex") from exc


def _told(pair: KeyPair, folder: Path, name: str) -> dict[str, Any]:
    certificate = pair.x509
    return {
        "certificate": str(folder / f"{name}.crt"),
        "key": str(folder / f"{name}.key"),
        "subject": certificate.subject.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "fingerprint": pair.fingerprint,
        "not_after": f"{certificate.not_valid_after_utc:%FT%RZ}",
    }


def _say(form: Format, command: str, result: dict[str, Any]) -> None:
    if form is Format.JSON:
        output.envelope(command, result=result)
        return
    for name, value in result.items():
        print(f"{name:<12} {value}")
