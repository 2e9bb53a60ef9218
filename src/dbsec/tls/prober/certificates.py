"""What a chain of certificates says: names, dates, keys, signatures; whether it is trusted is another question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from dbsec.errors import ConnectError


@dataclass(frozen=True, slots=True)
class Served:
    """One certificate. ``key_kind``: rsa, ec, ed25519 ...; ``key_bits``: of the modulus or the curve; ``signed_with``:
    the hash, "" for Ed25519 and Ed448, which name none; ``fingerprint``: SHA-256 over DER, hex.
    """

    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    key_kind: str
    key_bits: int
    signed_with: str
    fingerprint: str

    @property
    def self_signed(self) -> bool:
        """Whether it names itself as its issuer."""
        return self.subject == self.issuer

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {"self_signed": self.self_signed}


def read(chain: Sequence[bytes]) -> tuple[Served, ...]:
    """Read DER certificates, leaf first. Errors: ``ConnectError`` for one that is none."""
    try:
        return tuple(_served(x509.load_der_x509_certificate(der)) for der in chain)
    except ValueError as exc:
        raise ConnectError(f"the server sends a certificate that cannot be read: {exc}") from exc


def _served(certificate: x509.Certificate) -> Served:
    kind, bits = _key(certificate)
    try:
        signed_with = certificate.signature_hash_algorithm
    except Exception:  # noqa: BLE001 - an algorithm without a name here is told as such
        return _told(certificate, kind, bits, "unknown")
    return _told(certificate, kind, bits, signed_with.name if signed_with else "")


def _told(certificate: x509.Certificate, kind: str, bits: int, signed_with: str) -> Served:
    return Served(
        certificate.subject.rfc4514_string(),
        certificate.issuer.rfc4514_string(),
        _names(certificate),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        kind,
        bits,
        signed_with,
        certificate.fingerprint(hashes.SHA256()).hex(),
    )


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _key(certificate: x509.Certificate) -> tuple[str, int]:
    key = certificate.public_key()
    match key:
        case rsa.RSAPublicKey():
            return "rsa", key.key_size
        case ec.EllipticCurvePublicKey():
            return "ec", key.curve.key_size
        case dsa.DSAPublicKey():
            return "dsa", key.key_size
        case ed25519.Ed25519PublicKey():
            return "ed25519", 256
        case ed448.Ed448PublicKey():
            return "ed448", 456
    return type(key).__name__, 0
