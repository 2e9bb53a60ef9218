"""Servers that want the token: one that redirects, one that is not the server, one that answers nonsense."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dbsec.errors import ConfigError
from dbsec.kms import KmsUnavailable, Patience, open_admin, open_kms
from dbsec.tls.ca import Authority
from dbsec.vault import Settings, TokenAuth, Vault, VaultError, VaultRefused, VaultUnavailable

TOKEN = "s.token-that-everybody-wants"
ENVIRON = {"TOKEN": TOKEN}


@dataclass
class Impostor:
    """A server that answers each request alike, and keeps the headers that it got."""

    address: str = ""
    got: list[dict[str, str]] = field(default_factory=list)

    @property
    def tokens(self) -> list[str]:
        return [one["X-Vault-Token"] for one in self.got if "X-Vault-Token" in one]


@contextmanager
def impostor(
    authority: Authority, folder: Path, *, status: int, headers: dict[str, str] | None = None, body: bytes = b"{}"
) -> Iterator[Impostor]:
    told = Impostor()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            told.got.append(dict(self.headers))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815 names of the base class

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that does not believe the certificate hangs up."""

    name = f"server-{status}-{id(told)}"
    certificate, key = authority.issue_server(["localhost"]).save(folder, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Quiet(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    told.address = f"https://localhost:{server.server_port}"
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority.create("CA of a test", days=1)
    made.save(tmp_path)
    return made


def client(address: str, ca: Path) -> Vault:
    return Vault(Settings(address, ca=ca, timeout_s=2), TokenAuth("env:TOKEN", ENVIRON))


def test_a_redirect_takes_no_token_along(authority, tmp_path):
    with impostor(authority, tmp_path, status=200) as thief:
        moved = {"Location": f"{thief.address}/v1/sys/mounts"}
        with impostor(authority, tmp_path, status=307, headers=moved) as server:
            with pytest.raises(VaultUnavailable, match="redirects"):
                client(server.address, tmp_path / "ca.crt").read("sys/mounts")
            assert server.tokens == [TOKEN]
    assert thief.got == []


def test_a_server_of_another_authority_gets_no_token(authority, tmp_path):
    (tmp_path / "other").mkdir()
    other = Authority.create("CA of somebody else", days=1)
    with impostor(other, tmp_path / "other", status=200) as thief:
        with pytest.raises(VaultUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            client(thief.address, tmp_path / "ca.crt").read("sys/mounts")
        ip_address = thief.address.replace("localhost", "127.0.0.1")
        other.save(tmp_path / "other")
        with pytest.raises(VaultUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            client(ip_address, tmp_path / "other/ca.crt").read("sys/mounts")
    assert thief.got == []


@pytest.mark.parametrize(
    "address",
    ["http://localhost:8200", "localhost:8200", "https://", "https://host/path", "https://user@host", "file:///etc"],
)
def test_a_token_is_sent_to_an_https_address_only(address):
    with pytest.raises(ConfigError, match="no address") as refused:
        Settings(address)
    assert "in clear" in refused.value.hint


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"<html>a login page of a proxy</html>", VaultUnavailable),
        (200, b"[]", VaultUnavailable),
        (200, b"{}", VaultUnavailable),
        (400, b"not json", VaultRefused),
        (502, b"<html>bad gateway</html>", VaultUnavailable),
        (429, b"{}", VaultUnavailable),
        (403, b'{"errors": ["permission denied"]}', VaultRefused),
    ],
)
def test_nonsense_is_told_as_what_it_is(authority, tmp_path, status, body, expected):
    with impostor(authority, tmp_path, status=status, body=body) as server, pytest.raises(VaultError) as failed:
        client(server.address, tmp_path / "ca.crt").read("sys/mounts")
    assert type(failed.value) is expected
    assert TOKEN not in f"{failed.value!r} {failed.value} {vars(failed.value)}"


def test_a_key_whose_answer_is_no_ciphertext_is_no_key(authority, tmp_path):
    body = b'{"data": {"derived": true, "ttl": 0, "ciphertext": "k8s:v1:AAAA"}}'
    with impostor(authority, tmp_path, status=200, body=body) as server:
        kms = open_kms(kms_uri(server.address, tmp_path), environ=ENVIRON, patience=Patience(timeout_s=2))
        with pytest.raises(Exception, match="no ciphertext"):
            kms.wrap(bytes(32), {"tenant": "acme"})


def test_a_proxys_page_is_no_answer_of_a_kms(authority, tmp_path):
    with impostor(authority, tmp_path, status=200, body=b"<html>") as server:
        kms = open_kms(kms_uri(server.address, tmp_path), environ=ENVIRON, patience=Patience(1, 0.1))
        with pytest.raises(KmsUnavailable):
            kms.unwrap(b"\x01\0\0\0\x01" + bytes(60), {"tenant": "acme"})


def kms_uri(address: str, folder: Path) -> str:
    return f"{address.replace('https', 'vault-transit')}/transit/kek?ca={folder}/ca.crt&token=env:TOKEN"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("vault-transit://host:8200/kek?token=env:TOKEN", "names host, mount and key"),
        ("vault-transit:///transit/kek?token=env:TOKEN", "names host, mount and key"),
        ("vault-transit://host/transit/../sys/kek?token=env:TOKEN", "names host, mount and key"),
        ("vault-transit://host/transit/kek.?token=env:TOKEN", "names host, mount and key"),
        ("vault-transit://host/transit/a%2Fb?token=env:TOKEN", "names host, mount and key"),
        (f"vault-transit://host/transit/kek?token={TOKEN}", "by reference"),
        ("vault-transit://host/transit/kek?token=env:NONE", "is not set"),
        ("vault-transit://host/transit/kek", "needs the parameter 'token'"),
        ("vault-transit://host/transit/kek?auth=approle&role_id=r", "needs the parameter 'secret_id'"),
        ("vault-transit://host/transit/kek?auth=userpass&token=env:TOKEN", "knows no auth"),
        ("vault-transit://host/transit/kek?token=env:TOKEN&ca=/none/ca.pem", "is not there"),
        ("vault-transit://host/transit/kek?token=env:TOKEN&verify=false", "knows no parameter"),
    ],
)
@pytest.mark.parametrize("opened", [open_kms, open_admin])
def test_a_uri_that_is_wrong_is_told_at_once(opened, bad, said):
    with pytest.raises(ConfigError, match=said) as refused:
        opened(bad, environ=ENVIRON)
    assert TOKEN not in str(refused.value) + refused.value.hint
