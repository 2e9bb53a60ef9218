"""What is looked at before a certificate is put where a server or client takes it from."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from dbsec.errors import ConfigError
from dbsec.tls.ca import KeyPair


def check(pair: KeyPair, ca: bytes, *, use: x509.ObjectIdentifier, now: datetime, covers: Iterable[str] = ()) -> None:
    """Check key, chain, dates, use, and that no name of ``covers`` is lost.

    Errors: ``ConfigError`` naming the first that does not hold.
    """
    certificate = check_pair(pair, use=use, now=now)
    _check_chain(certificate, ca)
    if lost := sorted(set(covers) - set(names(certificate))):
        raise ConfigError(
            f"the certificate would lose the name '{lost[0]}', which is served now",
            hint=f"issue it for {', '.join(lost)} too: clients that dial it would turn away",
        )


def check_pair(pair: KeyPair, *, use: x509.ObjectIdentifier, now: datetime) -> x509.Certificate:
    """Check key, dates and use alone, and return the certificate. Errors: ``ConfigError``."""
    certificate = _loaded(pair)
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        dates = f"{certificate.not_valid_before_utc:%F %R} to {certificate.not_valid_after_utc:%F %R}"
        raise ConfigError(f"the certificate is good from {dates} UTC, which is not now", hint="look at the clocks")
    try:
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        uses = x509.ExtendedKeyUsage([use])  # without one, any use is allowed
    if use not in uses:
        raise ConfigError(f"the certificate is not for {use._name}", hint="issue it for the other side")
    return certificate


def check_crl(crl: bytes, ca: bytes, *, now: datetime) -> None:
    """Check who signed a list, and that it is in time: with a wrong one a server refuses every certificate.

    Errors: ``ConfigError``.
    """
    try:
        listed, authorities = x509.load_pem_x509_crl(crl), x509.load_pem_x509_certificates(ca)
    except ValueError as exc:
        raise ConfigError("the revocation list, or its CA, is not in PEM") from exc
    if not any(listed.is_signature_valid(one.public_key()) for one in authorities):  # type: ignore[arg-type]
        raise ConfigError("the revocation list is not signed by the CA of the client certificates")
    if listed.next_update_utc is None or listed.next_update_utc <= now:
        raise ConfigError(f"the revocation list is out of date since {listed.next_update_utc}", hint="dbsec tls ca crl")


def names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the host names and addresses of the SAN."""
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(one.value) for one in san)


def _loaded(pair: KeyPair) -> x509.Certificate:
    try:
        key = serialization.load_pem_private_key(pair.key, password=None)
        certificate = pair.x509
    except (ValueError, TypeError) as exc:
        raise ConfigError("certificate or key is not in PEM, or the key has a passphrase") from exc
    if key.public_key() != certificate.public_key():
        raise ConfigError(
            "the key does not belong to the certificate", hint="a server would refuse it in its log alone"
        )
    return certificate


def _check_chain(certificate: x509.Certificate, ca: bytes) -> None:
    try:
        authorities = x509.load_pem_x509_certificates(ca)
    except ValueError as exc:
        raise ConfigError("the CA is not a certificate in PEM") from exc
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return
    raise ConfigError("the certificate was not issued by this CA", hint="clients that trust it would turn away")
