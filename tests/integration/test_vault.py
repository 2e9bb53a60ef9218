"""The client of OpenBao: tokens that are renewed and replaced, forks, threads, and a server that is away."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.clocks import Hands
from tests.forks import in_a_child

from dbsec.vault import Settings, TokenAuth, Vault, VaultNotFound, VaultRefused, VaultUnavailable, shared

SELF = 'path "sys/mounts" { capabilities = ["read"] }'
LOGIN = "auth/approle/login"


def life(vault: Vault) -> dict[str, object]:
    return dict(vault.read("auth/token/lookup-self")["data"])


def texts(exc: BaseException) -> Iterator[str]:
    """Yield all that an error and what is chained to it tell, and what their attributes hold."""
    seen: BaseException | None = exc
    while seen is not None:
        yield f"{seen!r} {seen} {vars(seen)!r}"
        yield from (repr(vars(held)) for held in vars(seen).values() if hasattr(held, "__dict__"))
        seen = seen.__cause__ or seen.__context__


def test_a_new_token_in_the_file_is_taken_when_the_old_one_was_refused(openbao):
    path = openbao.token(SELF)
    vault = openbao.client(path)
    first = life(vault)["accessor"]
    openbao.admin().write("auth/token/revoke-accessor", {"accessor": first})
    with pytest.raises(VaultRefused):
        vault.read("sys/mounts")
    path.write_text(openbao.token(SELF).read_text())
    assert vault.read("sys/mounts")
    assert life(vault)["accessor"] != first


def test_a_new_token_in_the_file_is_taken_when_the_right_was_missing(openbao):
    path = openbao.token('path "sys/none" { capabilities = ["read"] }')
    vault = openbao.client(path)
    with pytest.raises(VaultRefused, match="permission denied"):
        vault.read("sys/mounts")
    path.write_text(openbao.token(SELF).read_text())
    assert vault.read("sys/mounts")


def test_a_role_logs_in_again_when_its_token_was_revoked(openbao):
    vault = openbao.client(openbao.approle(SELF))
    first = life(vault)["accessor"]
    openbao.admin().write("auth/token/revoke-accessor", {"accessor": first})
    assert vault.read("sys/mounts")
    assert life(vault)["accessor"] != first


def test_a_missing_right_is_no_reason_to_log_in(openbao):
    vault = openbao.client(openbao.approle(SELF))
    vault.read("sys/mounts")
    logins = openbao.audited(LOGIN)
    for _ in range(3):
        with pytest.raises(VaultRefused) as refused:
            vault.read("sys/policies/acl/admin")
        assert refused.value.denied
    assert openbao.audited(LOGIN) == logins


def test_a_token_is_renewed_at_two_thirds_of_its_life(openbao):
    clock = Hands()
    vault = openbao.client(openbao.approle(SELF, token_ttl="1h"), clock=clock)
    accessor = life(vault)["accessor"]
    clock.seconds = 39 * 60
    assert "last_renewal" not in life(vault)
    clock.seconds = 41 * 60
    renewed = life(vault)
    assert renewed["accessor"] == accessor
    assert renewed["last_renewal"]


def test_a_token_that_cannot_be_renewed_is_replaced_before_its_end(openbao):
    clock = Hands()
    vault = openbao.client(openbao.approle(SELF, token_ttl="1h", token_type="batch"), clock=clock)
    vault.read("sys/mounts")
    logins = openbao.audited(LOGIN)
    clock.seconds = 41 * 60
    vault.read("sys/mounts")
    assert openbao.audited(LOGIN) == logins + 1


def test_a_client_that_rested_for_too_long_logs_in_again(openbao):
    clock = Hands()
    vault = openbao.client(openbao.approle(SELF, token_ttl="1h"), clock=clock)
    first = life(vault)["accessor"]
    clock.seconds = 2 * 3600
    assert life(vault)["accessor"] != first


def test_threads_log_in_once(openbao):
    vault = openbao.client(openbao.approle(SELF))
    logins = openbao.audited(LOGIN)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: vault.read("sys/mounts")["data"].keys(), range(80)))
    assert len(answers) == 80
    assert openbao.audited(LOGIN) == logins + 1


def test_a_forked_child_has_connections_of_its_own(openbao):
    vault = openbao.client(openbao.approle(SELF))
    vault.read("sys/mounts")
    assert in_a_child(lambda: [vault.read("sys/mounts") for _ in range(3)]) == 0
    assert vault.read("sys/mounts")


def test_a_lock_held_at_the_fork_holds_no_child_up(openbao):
    vault = openbao.client(openbao.approle(SELF))
    vault.read("sys/mounts")
    with vault._own._lock:
        assert in_a_child(lambda: vault.read("sys/mounts")) == 0


def test_the_environment_says_nothing(openbao, monkeypatch, tmp_path):
    (tmp_path / "none.pem").write_text("")
    (tmp_path / ".vault-token").write_text("s.of-another-server")
    surroundings = {
        "REQUESTS_CA_BUNDLE": str(tmp_path / "none.pem"),
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "VAULT_ADDR": "http://127.0.0.1:9",
        "VAULT_TOKEN": "s.of-another-server",
        "VAULT_CACERT": str(tmp_path / "none.pem"),
        "HOME": str(tmp_path),
    }
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    assert openbao.admin().read("sys/mounts")


def test_another_authority_is_not_believed(openbao):
    vault = Vault(Settings(openbao.address), TokenAuth(f"file:{openbao.token_file}", {}))
    with pytest.raises(VaultUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        vault.read("sys/mounts")


def test_what_is_not_there_is_told_apart(openbao):
    admin = openbao.admin()
    with pytest.raises(VaultNotFound):
        admin.read("transit/keys/never-made")
    assert admin.names("transit/keys-of-none") == []
    with pytest.raises(VaultRefused, match="unknown key type"):
        admin.write("transit/keys/of-no-type", {"type": "none"})


def test_a_server_that_is_away_and_comes_back(openbao_factory):
    server = openbao_factory("raft")
    token = server.token(SELF)
    vault, hurried = server.client(token), server.client(token, timeout_s=0.3)
    vault.read("sys/mounts")
    server.pause()
    with pytest.raises(VaultUnavailable, match="did not answer"):
        hurried.read("sys/mounts")
    server.resume()
    assert vault.read("sys/mounts")
    server.admin().write("sys/seal")
    with pytest.raises(VaultUnavailable, match="sealed"):
        vault.read("sys/mounts")
    server.stop()
    with pytest.raises(VaultUnavailable, match="refused"):
        vault.read("sys/mounts")
    server.start_again()
    assert vault.read("sys/mounts")
    server.stop()


def test_a_renewal_that_fails_leaves_the_token_in_use(openbao):
    clock = Hands()
    role = openbao.approle(SELF, token_ttl="1h", token_type="batch")
    vault = openbao.client(role, clock=clock)
    vault.read("sys/mounts")
    Path(role.secret_id.removeprefix("file:")).unlink()
    clock.seconds = 41 * 60
    assert vault.read("sys/mounts")
    clock.seconds = 61 * 60
    with pytest.raises(VaultUnavailable, match="cannot read secret file"):
        vault.read("sys/mounts")


def test_a_file_that_went_away_is_no_answer_yet(openbao):
    path = openbao.token(SELF)
    vault = openbao.client(path)
    path.unlink()
    with pytest.raises(VaultUnavailable, match="cannot read secret file"):
        vault.read("sys/mounts")


def test_no_error_and_no_log_holds_a_token_or_a_body(openbao, caplog, monkeypatch):
    path = openbao.token(SELF)
    token = path.read_text().strip()
    away = Vault(Settings("https://localhost:9", timeout_s=0.5), TokenAuth(f"file:{path}", {}))
    body = {"plaintext": "cGxhaW50ZXh0LW9mLWEtdGVzdA=="}
    with caplog.at_level(logging.DEBUG):
        for vault in (openbao.client(path), away):
            with pytest.raises((VaultRefused, VaultUnavailable)) as failed:
                vault.write("transit/encrypt/none", body)
            told = " ".join([*texts(failed.value), repr(vault)])
            assert token not in told
            assert body["plaintext"] not in told
    assert caplog.text
    assert token not in caplog.text
    assert body["plaintext"] not in caplog.text


def test_one_client_for_one_credential(openbao):
    settings = Settings(openbao.address, ca=openbao.ca)
    role, environ = openbao.approle(SELF), {}
    one = shared(settings, role)
    assert shared(settings, role) is one
    assert shared(settings, TokenAuth(f"file:{openbao.token_file}", environ)) is not one
    token = shared(settings, TokenAuth("env:TOKEN", environ))
    assert shared(settings, TokenAuth("env:TOKEN", {})) is not token
