"""A CA in a folder, the checks before a certificate is placed, and two files that change as one."""

from __future__ import annotations

import contextlib
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from dbsec.clock import SYSTEM
from dbsec.errors import ConfigError, UsageError
from dbsec.tls.ca import CLIENT, SERVER, Authority, KeyKind, KeyPair
from dbsec.tls.issuers import checks, open_issuer, placing
from dbsec.tls.issuers.folder import CaFolder

WEEK = timedelta(days=7)


@pytest.fixture
def ca(tmp_path: Path) -> CaFolder:
    return CaFolder.create(tmp_path / "ca", "a CA of the tests")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_private_and_a_ca_is_not_made_twice(ca: CaFolder):
    assert (mode(ca.folder), mode(ca.folder / "ca.key")) == (0o700, 0o600)
    with pytest.raises(UsageError, match="there is a CA"):
        CaFolder.create(ca.folder, "another")
    (ca.folder / "ca.key").chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        CaFolder.open(ca.folder)


@pytest.mark.parametrize("kind", list(KeyKind), ids=str)
def test_what_it_issues_is_good_for_its_use_alone(tmp_path: Path, kind: KeyKind):
    ca = CaFolder.create(tmp_path / "ca", "a CA", kind=kind)
    server = ca.issue_server(["db.lab", "127.0.0.1"], WEEK)
    client = ca.issue_client("app_gateway", WEEK)
    checks.check(server.pair, server.ca, use=SERVER, now=SYSTEM.now(), covers=["db.lab"])
    checks.check(client.pair, client.ca, use=CLIENT, now=SYSTEM.now())
    with pytest.raises(ConfigError, match="not for clientAuth"):
        checks.check(server.pair, server.ca, use=CLIENT, now=SYSTEM.now())


def test_each_check_names_what_does_not_hold(ca: CaFolder):
    good, other = ca.issue_server(["db.lab"], WEEK), Authority.create("another")
    now = SYSTEM.now()
    mixed = KeyPair(good.pair.certificate, ca.issue_server(["db.lab"], WEEK).pair.key)
    with pytest.raises(ConfigError, match="does not belong"):
        checks.check(mixed, good.ca, use=SERVER, now=now)
    with pytest.raises(ConfigError, match="not issued by this CA"):
        checks.check(good.pair, other.certificate, use=SERVER, now=now)
    with pytest.raises(ConfigError, match="not now"):
        checks.check(good.pair, good.ca, use=SERVER, now=now + timedelta(days=8))
    with pytest.raises(ConfigError, match=r"lose the name 'replica\.lab'"):
        checks.check(good.pair, good.ca, use=SERVER, now=now, covers=["db.lab", "replica.lab"])
    with pytest.raises(ConfigError, match="PEM"):
        checks.check(KeyPair(b"nonsense", b"nonsense"), good.ca, use=SERVER, now=now)
    with pytest.raises(ConfigError, match="CA is not a certificate"):
        checks.check(good.pair, b"nonsense", use=SERVER, now=now)


def test_a_list_holds_what_was_revoked_and_its_number_grows(ca: CaFolder):
    issued = [ca.issue_client(f"role_{n}", WEEK).pair.x509.serial_number for n in range(3)]
    ca.revoke(issued[1])
    ca.revoke(issued[1])
    with pytest.raises(UsageError, match="issued no certificate"):
        ca.revoke(4711)
    lists = [x509.load_pem_x509_crl(ca.crl(WEEK)) for _ in range(2)]
    assert [one.serial_number for one in lists[1]] == [issued[1]]
    numbers = [one.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for one in lists]
    assert numbers == [1, 2]
    again = CaFolder.open(ca.folder)
    assert again.revoked() == [issued[1]]


def test_a_line_that_a_kill_cut_short_is_none_and_is_ended(ca: CaFolder):
    first = ca.issue_client("one", WEEK).pair.x509.serial_number
    with (ca.folder / "issued.jsonl").open("ab") as stream:
        stream.write(b'{"event": "revoked", "ser')
    assert ca.revoked() == []
    ca.revoke(first)
    assert ca.revoked() == [first]
    assert [one["names"] for one in ca.events("issued")] == [["one"]]


def test_a_broken_line_in_the_middle_is_an_error(ca: CaFolder):
    ca.issue_client("one", WEEK)
    with (ca.folder / "issued.jsonl").open("ab") as stream:
        stream.write(b"nonsense\n")
    with pytest.raises(ConfigError, match="line 2 is no JSON"):
        ca.crl(WEEK)


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("step", range(5))
def test_a_pair_changes_as_one_wherever_it_is_killed(ca: CaFolder, tmp_path: Path, monkeypatch, step: int):
    old, new = (ca.issue_server(["db.lab"], WEEK).pair for _ in range(2))
    placing.place(tmp_path, "server", old, replace=False)
    done = 0

    def counted(real):
        def act(self: Path, target: Path) -> Path:
            nonlocal done
            if done == step:
                raise Killed
            done += 1
            return real(self, target)

        return act

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(Path, "replace", counted(Path.replace))
        with contextlib.suppress(Killed):
            placing.place(tmp_path, "server", new, replace=True)
    found = placing.read(tmp_path, "server")
    assert found in (old, new)
    checks.check(found, ca.authority.certificate, use=SERVER, now=SYSTEM.now())
    if step >= 2:
        assert found == new
    placing.place(tmp_path, "server", new, replace=True)
    assert placing.read(tmp_path, "server") == new
    assert mode(tmp_path / "server.key") == 0o600


def test_what_is_there_is_not_overwritten(ca: CaFolder, tmp_path: Path):
    pair = ca.issue_server(["db.lab"], WEEK).pair
    placing.place(tmp_path, "server", pair, replace=False)
    with pytest.raises(UsageError, match="not overwritten"):
        placing.place(tmp_path, "server", pair, replace=False)


def test_no_address_and_no_key_shows_a_secret(ca: CaFolder):
    with pytest.raises(ConfigError) as caught:
        open_issuer("vault-pki://host:8200/pki/role?tokn=hunter2", environ={})
    assert "hunter2" not in str(caught.value)
    assert "PRIVATE" not in repr(ca.issue_client("one", WEEK))
    assert datetime.now(UTC) < ca.issue_client("two", WEEK).pair.x509.not_valid_after_utc
