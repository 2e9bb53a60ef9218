"""A private certificate authority: server and client certificates with the right names, uses and lifetimes."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dbsec import files
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ConfigError

_BACKDATE = timedelta(minutes=5)  # clocks of servers and clients differ
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
_RSA_BITS = 3072
_PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class KeyKind(StrEnum):
    """What keys are made of."""

    EC = "ec"
    RSA = "rsa"


@dataclass(frozen=True, slots=True, repr=False)
class KeyPair:
    """A certificate and its private key, both PEM (PKCS #8 for the key)."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"<KeyPair {self.x509.subject.rfc4514_string()} {self.fingerprint[:12]}>"

    @property
    def x509(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the DER certificate, in hex: what a served certificate is compared with."""
        return self.x509.fingerprint(hashes.SHA256()).hex()

    def save(self, folder: Path, name: str, *, owner: tuple[int, int] | None = None) -> tuple[Path, Path]:
        """Write ``NAME.crt`` (0644) and ``NAME.key`` (0600) atomically, key first, and return both paths."""
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        files.write_atomic(key, self.key, owner=owner)
        files.write_atomic(certificate, self.certificate, mode=0o644, owner=owner)
        return certificate, key


class Authority:
    """A CA with its key in memory; ``save`` and ``load`` keep it in a private folder.

    Keys are EC P-256, or RSA of 3072 bits for old clients; signatures are over SHA-256. What it issues has a key of its
    own kind. Source: RFC 5280; CA/Browser Forum names (SAN, never CN alone); NIST SP 800-57 part 1, table 2.
    """

    def __init__(self, pair: KeyPair, *, clock: Clock = SYSTEM) -> None:
        key = serialization.load_pem_private_key(pair.key, password=None)
        if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
            raise ConfigError("the key of the CA is neither of an elliptic curve nor of RSA")
        if key.public_key() != pair.x509.public_key():
            raise ConfigError("the key of the CA does not belong to its certificate")
        self._pair, self._key, self._clock = pair, key, clock

    @classmethod
    def create(cls, name: str, *, days: int = 3650, kind: KeyKind = KeyKind.EC, clock: Clock = SYSTEM) -> Authority:
        """Make a self-signed CA that may sign leaf certificates and CRLs, and no further CA."""
        key = _new_key(kind)
        subject = _name(name)
        builder = (
            _builder(subject, subject, key.public_key(), clock.now(), timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
        )
        return cls(KeyPair(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key)), clock=clock)

    @classmethod
    def load(cls, folder: Path, *, clock: Clock = SYSTEM) -> Authority:
        """Read ``ca.crt`` and ``ca.key``. Errors: ``ConfigError`` where they are missing or do not match."""
        try:
            pair = KeyPair((folder / "ca.crt").read_bytes(), (folder / "ca.key").read_bytes())
            return cls(pair, clock=clock)
        except (OSError, ValueError) as exc:
            raise ConfigError(f"no certificate authority in '{folder}': {exc}") from exc

    def save(self, folder: Path) -> Path:
        """Write ``ca.key`` (0600) and ``ca.crt`` and return the path of the certificate."""
        return self._pair.save(folder, "ca")[0]

    @property
    def certificate(self) -> bytes:
        """The CA's certificate in PEM: what clients trust."""
        return self._pair.certificate

    def issue_server(
        self, names: Sequence[str], *, lifetime: timedelta = timedelta(days=90), start: datetime | None = None
    ) -> KeyPair:
        """Issue a server certificate for host names and IP addresses; the first one is the subject."""
        return self._issue(names[0], SERVER, lifetime, start, x509.SubjectAlternativeName([_san(n) for n in names]))

    def issue_client(
        self, role: str, *, lifetime: timedelta = timedelta(days=7), start: datetime | None = None
    ) -> KeyPair:
        """Issue a client certificate whose common name is a database role (``clientcert=verify-full`` compares it)."""
        return self._issue(role, CLIENT, lifetime, start, None)

    def crl(
        self,
        serials: Sequence[int],
        *,
        number: int = 1,
        lifetime: timedelta = timedelta(days=7),
        start: datetime | None = None,
    ) -> bytes:
        """Sign a revocation list in PEM, good until ``lifetime`` after ``start``; past that servers refuse everyone.

        ``number`` must grow with each list. Source: RFC 5280, section 5.
        """
        begin = (start or self._clock.now()) - _BACKDATE
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._pair.x509.subject)
            .last_update(begin)
            .next_update(begin + _BACKDATE + lifetime)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _issue(
        self,
        common_name: str,
        use: x509.ObjectIdentifier,
        lifetime: timedelta,
        start: datetime | None,
        names: x509.SubjectAlternativeName | None,
    ) -> KeyPair:
        key = _new_key(KeyKind.RSA if isinstance(self._key, rsa.RSAPrivateKey) else KeyKind.EC)
        begin = start or self._clock.now()
        builder = (
            _builder(_name(common_name), self._pair.x509.subject, key.public_key(), begin, lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return KeyPair(_pem(builder.sign(self._key, hashes.SHA256())), _key_pem(key))


def self_signed(names: Sequence[str], *, lifetime: timedelta = timedelta(days=365), clock: Clock = SYSTEM) -> KeyPair:
    """Make a certificate that signs itself: what a server has whose TLS nobody can check."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(names[0])
    builder = _builder(subject, subject, key.public_key(), clock.now(), lifetime).add_extension(
        x509.SubjectAlternativeName([_san(n) for n in names]), critical=False
    )
    return KeyPair(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def _builder(
    subject: x509.Name, issuer: x509.Name, public: _PublicKey, begin: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _BACKDATE)
        .not_valid_after(begin + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _new_key(kind: KeyKind) -> _PrivateKey:
    if kind is KeyKind.RSA:
        return rsa.generate_private_key(65537, _RSA_BITS)
    return ec.generate_private_key(ec.SECP256R1())


def _key_pem(key: _PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
