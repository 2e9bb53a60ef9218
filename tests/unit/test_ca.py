"""Certificates: who may vouch for whom, for how long, and under which name."""

from __future__ import annotations

import hashlib
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from dbsec.errors import ConfigError
from dbsec.tls.ca import Authority, KeyPair, self_signed
from dbsec.tls.context import client_context, server_context

AUTHORITY = Authority.create("the site's CA")
OTHER = Authority.create("another CA")
AGO = datetime.now(UTC) - timedelta(days=40)


def handshake(served: KeyPair, trusted: bytes, name: str) -> int:
    """Shake hands in memory; returns OpenSSL's verify code, 0 where the certificate is good."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(trusted).wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context(served).wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as exc:
            return exc.verify_code
    return 0


@pytest.mark.parametrize(
    ("served", "name", "code"),
    [
        (AUTHORITY.issue_server(["localhost", "127.0.0.1"]), "localhost", 0),
        (AUTHORITY.issue_server(["localhost", "127.0.0.1"]), "127.0.0.1", 0),
        (AUTHORITY.issue_server(["localhost"]), "127.0.0.1", 64),
        (AUTHORITY.issue_server(["db.test"]), "localhost", 62),
        (AUTHORITY.issue_server(["localhost"], start=AGO, lifetime=timedelta(days=30)), "localhost", 10),
        (AUTHORITY.issue_server(["localhost"], start=datetime.now(UTC) + timedelta(days=1)), "localhost", 9),
        (OTHER.issue_server(["localhost"]), "localhost", 20),
        (self_signed(["localhost"]), "localhost", 18),
        (AUTHORITY.issue_client("localhost"), "localhost", 26),
    ],
)
def test_a_client_finds_what_is_wrong(served: KeyPair, name: str, code: int) -> None:
    assert handshake(served, AUTHORITY.certificate, name) == code


def test_the_authority_signs_leaves_only() -> None:
    certificate = KeyPair(AUTHORITY.certificate, b"").x509
    limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert limits.critical
    assert (limits.value.ca, limits.value.path_length) == (True, 0)
    leaf = AUTHORITY.issue_server(["localhost"]).x509
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_a_client_certificate_bears_the_role_and_serves_clients_only() -> None:
    leaf = AUTHORITY.issue_client("app_migrator").x509
    assert leaf.subject.rfc4514_string() == "CN=app_migrator"
    uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_the_fingerprint_is_sha256_of_the_der_form() -> None:
    pair = AUTHORITY.issue_server(["localhost"])
    der = ssl.PEM_cert_to_DER_cert(pair.certificate.decode())
    assert pair.fingerprint == hashlib.sha256(der).hexdigest()


def test_it_comes_back_from_its_folder_with_a_private_key_file(tmp_path: Path) -> None:
    path = AUTHORITY.save(tmp_path)
    assert path.read_bytes() == AUTHORITY.certificate
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {"ca.crt": 0o644, "ca.key": 0o600}
    again = Authority.load(tmp_path)
    assert handshake(again.issue_server(["localhost"]), AUTHORITY.certificate, "localhost") == 0


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    AUTHORITY.save(tmp_path)
    OTHER.save(tmp_path / "..")
    (tmp_path / "ca.key").write_bytes((tmp_path / ".." / "ca.key").read_bytes())
    with pytest.raises(ConfigError, match="does not belong"):
        Authority.load(tmp_path)


def test_a_missing_authority_names_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no certificate authority in"):
        Authority.load(tmp_path)


def test_a_key_never_shows() -> None:
    pair = AUTHORITY.issue_server(["localhost"])
    assert "PRIVATE" not in repr(pair)
    assert "PRIVATE" not in str([pair])
