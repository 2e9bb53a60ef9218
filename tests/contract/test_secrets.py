"""What every source of secrets owes, on the environment, a file and a real OpenBao; and what only some of them do."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from dbsec.errors import ConfigError, NewerFormat, UsageError
from dbsec.secret import Secret
from dbsec.secrets import Provider, SecretMissing, SecretRefused, SecretUnavailable, open_secrets

if TYPE_CHECKING:
    from tests.openbao import OpenBao

WRITABLE = ("file", "vault")
PAIR = {"username": Secret("app-1"), "password": Secret("correct horse")}


def uri_of(openbao: OpenBao, mount: str, token: Path, **more: str) -> str:
    query = urlencode({"ca": str(openbao.ca), "token": f"file:{token}", **more}, safe="/:")
    return f"vault://{openbao.address.removeprefix('https://')}/{mount}?{query}"


@pytest.fixture(scope="module")
def kv(openbao: OpenBao) -> str:
    name = f"kv-{secrets.token_hex(4)}"
    openbao.admin().write(f"sys/mounts/{name}", {"type": "kv", "options": {"version": "2"}})
    return name


@pytest.fixture
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Provider]:
    def open_one(kind: str) -> Provider:
        if kind == "file":
            return open_secrets(f"file:{tmp_path}/secrets.json", environ={})
        openbao, mount = request.getfixturevalue("openbao"), request.getfixturevalue("kv")
        token = openbao.token(f'path "{mount}/*" {{ capabilities = ["create", "read", "update"] }}')
        return open_secrets(uri_of(openbao, mount, token), environ={})

    return open_one


def shown(fields: Mapping[str, Secret]) -> dict[str, str]:
    return {name: value.reveal() for name, value in fields.items()}


@pytest.mark.parametrize("kind", WRITABLE)
def test_what_was_put_is_what_is_got(opened: Callable[[str], Provider], kind: str):
    source, name = opened(kind), f"app/db-{secrets.token_hex(4)}"
    first = source.put(name, PAIR, after="")
    assert shown(source.get(name).fields) == shown(PAIR)
    assert source.get(name).version == first.version
    second = source.put(name, {"password": Secret("öäü\n")}, after=first.version)
    assert second.version != first.version
    assert shown(source.get(name).fields) == {"password": "öäü\n"}
    assert "correct" not in f"{first!r}{source!r}"


@pytest.mark.parametrize("kind", WRITABLE)
def test_who_did_not_see_the_newest_version_replaces_nothing(opened: Callable[[str], Provider], kind: str):
    source, name = opened(kind), f"cas-{secrets.token_hex(4)}"
    first = source.put(name, PAIR, after="")
    second = source.put(name, {"password": Secret("second")}, after=first.version)
    for after in ("", first.version):
        with pytest.raises(SecretRefused):
            source.put(name, {"password": Secret("third")}, after=after)
    assert source.get(name).version == second.version
    assert shown(source.get(name).fields) == {"password": "second"}


@pytest.mark.parametrize("kind", WRITABLE)
def test_of_two_writers_at_once_one_wins_and_a_reader_never_sees_half(opened: Callable[[str], Provider], kind: str):
    source, name = opened(kind), f"race-{secrets.token_hex(4)}"
    version = source.put(name, {"username": Secret("0"), "password": Secret("0")}, after="").version
    seen: list[dict[str, str]] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.append(shown(source.get(name).fields))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(10):
            won: list[str] = []
            gate = threading.Barrier(2)

            def write(me: str, gate: threading.Barrier = gate, won: list[str] = won, after: str = version) -> None:
                gate.wait()
                with suppress(SecretRefused):
                    won.append(source.put(name, {"username": Secret(me), "password": Secret(me)}, after=after).version)

            writers = [threading.Thread(target=write, args=(f"{turn}{one}",)) for one in "ab"]
            for one in writers:
                one.start()
            for one in writers:
                one.join()
            assert len(won) == 1
            version = won[0]
    finally:
        over.set()
        reader.join()
    assert seen
    assert [one for one in seen if one["username"] != one["password"]] == []


@pytest.mark.parametrize("kind", WRITABLE)
def test_a_name_that_nothing_has_is_missing(opened: Callable[[str], Provider], kind: str):
    source = opened(kind)
    source.put(f"there-{secrets.token_hex(4)}", PAIR, after="")
    with pytest.raises(SecretMissing, match="nowhere"):
        source.get("nowhere")


@pytest.mark.parametrize("kind", WRITABLE)
@pytest.mark.parametrize("name", ["", "../x", "a/../b", "a//b", "/a", "a/", ".hidden", "a b", "a?version=1", "a" * 201])
def test_a_name_that_leads_elsewhere_is_refused(opened: Callable[[str], Provider], kind: str, name: str):
    source = opened(kind)
    with pytest.raises(UsageError, match="no name of a secret"):
        source.get(name)
    with pytest.raises(UsageError, match="no name of a secret"):
        source.put(name, PAIR, after="")


def test_the_environment_is_only_read():
    source = open_secrets("env:", environ={"DB_PASSWORD": "hunter"})
    assert shown(source.get("DB_PASSWORD").fields) == {"value": "hunter"}
    assert "hunter" not in repr(source)
    with pytest.raises(SecretMissing, match="'OTHER' is not set"):
        source.get("OTHER")
    with pytest.raises(UsageError, match="only read"):
        source.put("DB_PASSWORD", PAIR, after="1")
    with pytest.raises(UsageError, match="issues no credentials"):
        source.lease("app")
    with pytest.raises(UsageError, match="replaces no password"):
        source.rotate("app")


def _written(path: Path, text: str, mode: int = 0o600) -> Provider:
    path.write_text(text)
    path.chmod(mode)
    return open_secrets(f"file:{path}", environ={})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter",
        '{"password": "hunter"}',
        '{"dbsec": "secrets", "format": 1, "secrets": {"a": {"fields": "hunter"}}}',
    ],
    ids=["empty", "text", "another", "damaged"],
)
def test_a_file_that_is_none_of_ours_is_told_without_its_text(tmp_path: Path, text: str):
    source = _written(tmp_path / "s.json", text)
    with pytest.raises(SecretUnavailable) as told:
        source.get("a")
    assert "s.json" in str(told.value)
    assert "hunter" not in f"{told.value}{told.value.__cause__}{told.value.__context__}"


def test_a_file_that_others_may_read_is_refused_and_a_newer_one_is_not_guessed_at(tmp_path: Path):
    whole = '{"dbsec": "secrets", "format": 1, "secrets": {}}'
    with pytest.raises(SecretUnavailable, match="others may read it"):
        _written(tmp_path / "open.json", whole, 0o644).get("a")
    newer = _written(tmp_path / "newer.json", whole.replace("1", "2"))
    for call in (lambda: newer.get("a"), lambda: newer.put("a", PAIR, after="")):
        with pytest.raises(NewerFormat):
            call()
    assert json.loads((tmp_path / "newer.json").read_text())["format"] == 2


def test_a_file_that_is_away_is_not_a_secret_that_is_missing(tmp_path: Path):
    with pytest.raises(SecretUnavailable, match="there is no file"):
        open_secrets(f"file:{tmp_path}/away.json", environ={}).get("a")


def test_a_policy_that_forbids_is_a_refusal(openbao: OpenBao, kv: str):
    token = openbao.token(f'path "{kv}/data/mine" {{ capabilities = ["read"] }}')
    source = open_secrets(uri_of(openbao, kv, token), environ={})
    with pytest.raises(SecretMissing):
        source.get("mine")
    for call in (lambda: source.get("other"), lambda: source.put("mine", PAIR, after="")):
        with pytest.raises(SecretRefused, match="permission denied"):
            call()


def test_a_server_that_answers_nothing_is_unavailable(openbao: OpenBao, kv: str):
    source = open_secrets(uri_of(openbao, kv, openbao.token_file), environ={})
    source.put("steady", PAIR, after="")
    openbao.pause()
    try:
        with pytest.raises(SecretUnavailable, match="in time"):
            source.get("steady")
    finally:
        openbao.resume()
    assert shown(source.get("steady").fields) == shown(PAIR)


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("s.hunter")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("hunter", "names no source"),
        ("ldap://host", "names no source"),
        ("env:DB_PASSWORD", "stands alone"),
        ("file:relative.json", "absolute"),
        ("file:///there", "absolute"),
        ("vault://host:8200", "host and mount"),
        ("vault://user:hunter@host:8200/secret?token=file:{token}", "host and mount"),
        ("vault://host:8200/a/../b?token=file:{token}", "host and mount"),
        ("vault://host:8200/secret", "needs the parameter 'token'"),
        ("vault://host:8200/secret?token=s.hunter", "by reference"),
        ("vault://host:8200/secret?token=file:{token}&auth=hope", "knows no auth 'hope'"),
        ("vault://host:8200/secret?token=file:{token}&what=1", "no parameter 'what'"),
        ("vault://host:8200/secret?token=file:{token}&token=file:{token}", "twice"),
        ("vault://host:8200/secret?token", "without a value"),
        ("vault://host:8200/secret?token=file:{token}&database=../x", "mount of a database engine"),
    ],
    ids=[str(one) for one in range(15)],
)
def test_a_uri_that_is_wrong_is_told_without_what_it_may_hold(token: Path, uri: str, said: str):
    with pytest.raises(ConfigError, match=said) as told:
        open_secrets(uri.replace("{token}", str(token)), environ={})
    assert "hunter" not in f"{told.value}{told.value.__cause__}"
