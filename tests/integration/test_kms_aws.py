"""AWS KMS: shapes of its calls against moto; its refusals, which moto does not make, against written answers."""

from __future__ import annotations

import base64
import json
import logging
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.forks import in_a_child

from dbsec.aws import Aws, AwsRefused, AwsUnavailable, Settings, client, shared
from dbsec.errors import ConfigError
from dbsec.kms import Aad, Kms, KmsAdmin, KmsRefused, KmsUnavailable, Patience, open_admin, open_kms
from dbsec.kms.port import KekState

AAD: Aad = {"dbsec": "keyring/1", "tenant": "acme"}
DEK = bytes(range(32))
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret-of-a-test"}
QUICK = Patience(timeout_s=1, within_s=0.2)


def uri(endpoint: str, name: str = "", **more: str) -> str:
    parameters = "&".join(f"{key}={value}" for key, value in {"endpoint": endpoint, **more}.items())
    return f"aws-kms://eu-central-1/{name or 'alias/kek-' + secrets.token_hex(4)}?{parameters}"


def new(endpoint: str, **more: str) -> tuple[Kms, KmsAdmin]:
    address = uri(endpoint, **more)
    admin = open_admin(address, environ=KEYS)
    admin.create()
    return open_kms(address, environ=KEYS), admin


def test_wraps_by_alias_and_binds(moto):
    kms, admin = new(moto.address)
    wrapped = kms.wrap(DEK, AAD)
    assert kms.unwrap(wrapped, AAD) == DEK
    less = {"tenant": "acme"}
    for other in ({**AAD, "tenant": "globex"}, {**AAD, "row": "1"}, less, {**less, "DBSEC": "keyring/1"}):
        with pytest.raises(KmsRefused, match="InvalidCiphertext"):
            kms.unwrap(wrapped, other)
        with pytest.raises(KmsRefused, match="InvalidCiphertext"):
            kms.rewrap(wrapped, other)
    assert admin.rotate().version == "2"
    assert kms.unwrap(kms.rewrap(wrapped, AAD), AAD) == DEK


def test_opens_nothing_that_another_key_wrapped(moto):
    """The key is named in the call: credentials that may use both would open it else."""
    one, _ = new(moto.address)
    other, _ = new(moto.address)
    with pytest.raises(KmsRefused):
        other.unwrap(one.wrap(DEK, AAD), AAD)


def test_the_life_of_a_key(moto):
    _, admin = new(moto.address, delete_after_days="7")
    with pytest.raises(KmsRefused, match="already"):
        admin.create()
    assert admin.disable().state is KekState.DISABLED
    assert admin.enable().state is KekState.ENABLED
    destruction = admin.destroy()
    assert timedelta(days=6, hours=23) < destruction.at - datetime.now(UTC) <= timedelta(days=7)
    assert destruction.at.tzinfo is UTC


def test_an_id_is_no_name_for_a_new_key(moto):
    with pytest.raises(KmsRefused, match="AWS chooses the id") as refused:
        open_admin(uri(moto.address, "12345678-1234-1234-1234-123456789012"), environ=KEYS).create()
    assert "alias/" in refused.value.hint


def test_debug_logs_of_botocore_hold_no_key(moto, caplog):
    kms, _ = new(moto.address)
    with caplog.at_level(logging.DEBUG):
        kms.unwrap(kms.wrap(DEK, AAD), AAD)
    assert "Sending http request" in caplog.text
    for held in (base64.b64encode(DEK).decode(), repr(DEK), KEYS["AWS_SECRET_ACCESS_KEY"]):
        assert held not in caplog.text


def test_the_environment_of_the_process_says_nothing(moto, monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    kms, _ = new(moto.address)
    assert kms.unwrap(kms.wrap(DEK, AAD), AAD) == DEK


def test_a_forked_child_has_connections_of_its_own(moto):
    kms, _ = new(moto.address)
    wrapped = kms.wrap(DEK, AAD)
    settings = Settings("eu-central-1", KEYS, endpoint=moto.address)
    mine = shared("kms", settings)
    mine.call("list_keys")
    made = mine._made
    assert in_a_child(lambda: _differs(mine, made)) == 0
    assert in_a_child(lambda: kms.unwrap(wrapped, AAD)) == 0
    assert mine._made is made


def _differs(aws: Aws, before: object) -> None:
    aws.call("list_keys")
    assert aws._made is not before


@dataclass
class Written:
    """A server that gives written answers, and keeps what it was asked with."""

    answers: list[tuple[int, str, str]]
    asked: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    address: str = ""

    @property
    def key_ids(self) -> list[str]:
        return [one["Authorization"].partition("Credential=")[2].partition("/")[0] for one in self.asked]


@contextmanager
def written(*answers: tuple[int, str, str]) -> Iterator[Written]:
    """Serve answers in their order, the last one again and again: (status, code, message); code "" is success."""
    told = Written(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            told.asked.append(dict(self.headers))
            status, code, message = told.answers.pop(0) if len(told.answers) > 1 else told.answers[0]
            blob = base64.b64encode(DEK).decode()
            plain = {"Plaintext": blob, "CiphertextBlob": blob, "KeyId": "k"}
            body = json.dumps({"__type": code, "message": message} if code else plain).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    told.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "ThrottlingException", KmsUnavailable),
        (400, "LimitExceededException", KmsRefused),
        (500, "KMSInternalException", KmsUnavailable),
        (500, "KeyUnavailableException", KmsUnavailable),
        (400, "DependencyTimeoutException", KmsUnavailable),
        (503, "", KmsUnavailable),
        (400, "IncorrectKeyException", KmsRefused),
        (400, "InvalidCiphertextException", KmsRefused),
        (400, "AccessDeniedException", KmsRefused),
        (400, "KMSInvalidStateException", KmsRefused),
        (400, "DisabledException", KmsRefused),
        (400, "NotFoundException", KmsRefused),
        (400, "ExpiredTokenException", KmsRefused),
    ],
)
def test_each_answer_is_told_as_what_it_is(status, code, expected):
    with written((status, code, "words of AWS")) as server:
        kms = open_kms(uri(server.address, "alias/kek"), environ=KEYS, patience=QUICK)
        with pytest.raises(expected) as failed:
            kms.unwrap(b"wrapped", AAD)
    assert type(failed.value) is expected
    assert code in str(failed.value)


def test_each_call_names_the_key_and_the_context():
    """What AWS then refuses: another key (which moto does not look at when it reencrypts), another context."""
    with written((200, "", "")) as server:
        kms = open_kms(uri(server.address, "alias/kek"), environ=KEYS)
        kms.wrap(DEK, AAD)
        kms.unwrap(b"wrapped", AAD)
        kms.rewrap(b"wrapped", AAD)
    encrypt, decrypt, reencrypt = server.bodies
    assert (encrypt["KeyId"], encrypt["EncryptionContext"]) == ("alias/kek", AAD)
    assert (decrypt["KeyId"], decrypt["EncryptionContext"]) == ("alias/kek", AAD)
    assert (reencrypt["SourceKeyId"], reencrypt["SourceEncryptionContext"]) == ("alias/kek", AAD)
    assert (reencrypt["DestinationKeyId"], reencrypt["DestinationEncryptionContext"]) == ("alias/kek", AAD)


def test_boto_does_not_try_again_by_itself():
    with written((500, "KMSInternalException", "")) as server:
        aws = Aws("kms", Settings("eu-central-1", KEYS, endpoint=server.address))
        with pytest.raises(AwsUnavailable):
            aws.call("list_keys")
    assert len(server.asked) == 1


def test_credentials_that_were_replaced_in_their_file_are_taken(tmp_path):
    path = tmp_path / "credentials"

    def write(key_id: str) -> None:
        path.write_text(f"[keys]\naws_access_key_id = {key_id}\naws_secret_access_key = of-{key_id}\n")
        path.chmod(0o600)

    write("AKIAOLD")
    with written((200, "", ""), (400, "UnrecognizedClientException", "invalid"), (200, "", "")) as server:
        address = uri(server.address, "alias/kek", credentials=f"file:{path}", profile="keys")
        kms = open_kms(address, environ={})
        kms.unwrap(b"wrapped", AAD)
        write("AKIANEW")
        assert kms.unwrap(b"wrapped", AAD) == DEK
    assert server.key_ids == ["AKIAOLD", "AKIAOLD", "AKIANEW"]


def test_nobody_there_is_no_refusal():
    kms = open_kms(uri("http://127.0.0.1:9", "alias/kek"), environ=KEYS, patience=QUICK)
    with pytest.raises(KmsUnavailable) as failed:
        kms.unwrap(b"wrapped", AAD)
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in repr(failed.value.__cause__)


def test_no_credentials_are_a_refusal(tmp_path, monkeypatch):
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(AwsRefused, match="credentials"):
        Aws("kms", Settings("eu-central-1", {}, endpoint="http://127.0.0.1:9")).call("list_keys")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("aws-kms://here/alias/kek", "no region"),
        ("aws-kms://eu-central-1/kek", "names region and key"),
        ("aws-kms://eu-central-1/alias/kek?endpoint=http://kms.example.org", "no https"),
        ("aws-kms://eu-central-1/alias/kek?delete_after_days=6", "7 to 30"),
        ("aws-kms://eu-central-1/alias/kek?fips=yes", "neither true nor false"),
        ("aws-kms://eu-central-1/alias/kek?credentials=AKIA:secret", "by reference"),
        ("aws-kms://eu-central-1/alias/kek?ca=/none/ca.pem", "is not there"),
        ("aws-kms://eu-central-1/arn:aws:kms:us-east-1:123456789012:alias/kek", "the uri says"),
        ("aws-kms://eu-central-1/alias/kek?secret_key=AKIA", "knows no parameter"),
    ],
)
def test_a_uri_that_is_wrong_is_told_at_once(bad, said):
    with pytest.raises(ConfigError, match=said) as refused:
        open_kms(bad, environ=KEYS)
    assert "AKIA" not in str(refused.value)


def test_without_an_endpoint_it_is_the_regions_own(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    made = client._client("kms", Settings("eu-central-1", KEYS))
    assert made.meta.endpoint_url == "https://kms.eu-central-1.amazonaws.com"
    assert client._client("kms", Settings("us-east-1", KEYS, fips=True)).meta.endpoint_url.startswith(
        "https://kms-fips."
    )


def test_an_answer_that_is_not_awss_is_no_answer():
    with written((200, "", "")) as server:
        kms = open_kms(uri(server.address, "alias/kek"), environ=KEYS, patience=QUICK)
        with pytest.raises(KmsUnavailable, match="no KeyMetadata"):
            kms.describe()
