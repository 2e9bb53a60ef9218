"""file-kek: its file, byte by byte, who may read it, what a change in it does to a process that has it open."""

from __future__ import annotations

import base64
import gc
import json
import os
import threading
from pathlib import Path

import pytest

from dbsec.clock import SYSTEM
from dbsec.errors import ConfigError, NewerFormat, UsageError
from dbsec.kms import KekState, KmsRefused, open_admin, open_kms
from dbsec.kms.kek_file import Cost, Passkey
from dbsec.kms.schemes.file_kek import FileKek, FileKekAdmin
from dbsec.secret import Secret

AAD = {"tenant": "a", "context": "app.users"}
DEK = bytes(range(32))
PASSPHRASE = "correct horse battery"
CHEAP = Cost(2**14)
VECTOR = Path(__file__).parents[1] / "vectors/file_kek.json"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kek.json"


@pytest.fixture
def admin(path):
    made = FileKekAdmin(path, lambda: Secret(PASSPHRASE), cost=CHEAP)
    made.create()
    return made


def opened(path, passphrase=PASSPHRASE):
    return FileKek(path, lambda: Secret(passphrase))


def changed(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_file_of_format_1_opens_for_ever(tmp_path):
    """The vector was written once; a dbsec that cannot open it has lost somebody's keys."""
    vector = json.loads(VECTOR.read_text())
    path = tmp_path / "kek.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(vector["file"]))
    kms = opened(path, vector["passphrase"])
    assert kms.describe().version == "2"
    for wrap in vector["wraps"]:
        assert kms.unwrap(bytes.fromhex(wrap["wrapped"]), wrap["aad"]).hex() == wrap["dek"]


def test_a_wrap_has_the_shape_that_is_told(admin, path):
    admin.rotate()
    wrapped = opened(path).wrap(DEK, AAD)
    assert len(wrapped) == len(DEK) + 33
    assert wrapped[:5] == b"\x01\0\0\0\x02"


def test_the_file_is_private_and_holds_no_key_in_clear(admin, path):
    assert path.stat().st_mode & 0o777 == 0o600
    document = json.loads(path.read_text())
    passkey = Passkey(Secret(PASSPHRASE), base64.b64decode(document["scrypt"]["salt"]), CHEAP)
    record = document["versions"][0]
    aad = b"".join(len(p).to_bytes(4, "big") + p for p in (b"dbsec/file-kek/1", document["name"].encode(), b"1"))
    kek = passkey._cipher.decrypt(base64.b64decode(record["nonce"]), base64.b64decode(record["kek"]), aad)
    assert len(kek) == 32
    raw = path.read_bytes()
    assert kek not in raw
    assert base64.b64encode(kek) not in raw
    assert kek.hex().encode() not in raw


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_a_file_that_others_may_read_is_refused(admin, path, mode):
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}: others may read it") as refused:
        opened(path).wrap(DEK, AAD)
    assert refused.value.hint == f"chmod 600 {path}"


def test_it_is_refused_while_it_is_open_too(admin, path):
    kms = opened(path)
    wrapped = kms.wrap(DEK, AAD)
    path.chmod(0o644)
    os.utime(path)
    with pytest.raises(ConfigError, match="others may read it"):
        kms.unwrap(wrapped, AAD)


def test_a_newer_format_is_told(admin, path):
    changed(path, lambda d: d.update(format=2))
    with pytest.raises(NewerFormat, match=r"written by a newer dbsec \(format 2, this one knows 1\)"):
        opened(path).describe()


def test_another_passphrase_is_refused(admin, path):
    with pytest.raises(KmsRefused, match="another passphrase made it, or it was altered"):
        opened(path, "another passphrase").describe()


def _reversed_versions(document):
    document["versions"].reverse()


ALTERED = {
    "the state": lambda d: d.update(state="disabled"),
    "the name": lambda d: d.update(name="0" * 16),
    "a date": lambda d: d["versions"][0].update(created_at="2001-01-01T00:00:00.000000Z"),
    "the order of versions": _reversed_versions,
    "a version less": lambda d: d["versions"].pop(),
    "a version twice": lambda d: d["versions"].append(d["versions"][0]),
    "a number": lambda d: d["versions"][0].update(version=7),
    "a key": lambda d: d["versions"][0].update(kek=d["versions"][1]["kek"]),
    "a field more": lambda d: d.update(more=1),
    "the salt": lambda d: d["scrypt"].update(salt=base64.b64encode(bytes(16)).decode()),
    "a lower cost": lambda d: d["scrypt"].update(p=2),
    "the mac": lambda d: d.update(mac=base64.b64encode(bytes(32)).decode()),
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_file_is_refused(admin, path, what):
    admin.rotate()
    opened(path).describe()
    changed(path, ALTERED[what])
    with pytest.raises(KmsRefused, match="it was altered"):
        opened(path).describe()


@pytest.mark.parametrize("cost", [{"n": 2}, {"n": 2**13}, {"n": 2**21}, {"r": 1}, {"r": 2**20}, {"p": 0}, {"p": 10**6}])
def test_a_cost_that_is_too_low_or_too_high_is_not_paid(admin, path, cost):
    changed(path, lambda d: d["scrypt"].update(cost))
    with pytest.raises(ConfigError, match="out of bounds"):
        opened(path).describe()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b'{"dbsec": "file-kek", "format": 1', "is damaged"),
        (b"[]", "is no KEK file"),
        (b'{"dbsec": "journal", "format": 1}', "is no KEK file"),
        (b'{"dbsec": "file-kek", "format": "1"}', "is no KEK file"),
        (b'{"dbsec": "file-kek", "format": true}', "is no KEK file"),
        (b'{"dbsec": "file-kek", "format": 1}', "is damaged"),
        (b'{"dbsec": "file-kek", "format": 1, "scrypt": {"n": "x", "r": 8, "p": 1, "salt": ""}}', "out of bounds"),
    ],
)
def test_what_is_no_kek_file_is_told(path, raw, said):
    path.touch(mode=0o600)
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=said):
        opened(path).describe()


def test_any_field_that_is_gone_is_no_traceback(admin, path):
    whole = path.read_text()
    for field in [*json.loads(whole), "n", "salt"]:
        document = json.loads(whole)
        (document if field in document else document["scrypt"]).pop(field)
        path.write_text(json.dumps(document))
        with pytest.raises((ConfigError, KmsRefused)):
            opened(path).describe()


def test_a_rotation_is_seen_by_who_has_it_open_and_scrypt_runs_once(admin, path):
    asked = []

    def passphrase():
        asked.append(1)
        return Secret(PASSPHRASE)

    kms = FileKek(path, passphrase)
    old = kms.wrap(DEK, AAD)
    admin.rotate()
    new = kms.wrap(DEK, AAD)
    assert (old[4], new[4]) == (1, 2)
    assert kms.unwrap(old, AAD) == kms.unwrap(new, AAD) == DEK
    assert len(asked) == 1


def test_a_file_that_is_gone_is_refused_though_it_was_open(admin, path):
    kms = opened(path)
    wrapped = kms.wrap(DEK, AAD)
    path.unlink()
    with pytest.raises(KmsRefused, match="there is no KEK file"):
        kms.unwrap(wrapped, AAD)


def test_destroy_leaves_a_tombstone_and_zeros_where_the_keys_were(admin, path, tmp_path):
    admin.rotate()
    before, link = path.read_bytes(), tmp_path / "the same file under another name"
    link.hardlink_to(path)
    done = admin.destroy()
    assert link.read_bytes() == bytes(len(before))
    assert json.loads(path.read_text())["versions"] == []
    seen = opened(path).describe()
    assert (seen.state, seen.version) == (KekState.DESTROYED, "")
    assert abs((done.at - SYSTEM.now()).total_seconds()) < 60
    with pytest.raises(KmsRefused, match="is there already"):
        admin.create()
    for act in (admin.rotate, admin.disable, admin.enable, admin.destroy):
        with pytest.raises(KmsRefused, match="it is destroyed"):
            act()


def test_two_administrators_lose_no_version(admin, path):
    others = [FileKekAdmin(path, lambda: Secret(PASSPHRASE), cost=CHEAP) for _ in range(4)]
    threads = [threading.Thread(target=other.rotate) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one["version"] for one in json.loads(path.read_text())["versions"]] == [1, 2, 3, 4, 5]


def test_a_short_passphrase_makes_no_file(path):
    with pytest.raises(UsageError, match="12 characters at least"):
        FileKekAdmin(path, lambda: Secret("short")).create()
    assert not path.exists()


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UsageError, match="cannot write beside the KEK file"):
        FileKekAdmin(tmp_path / "none/kek.json", lambda: Secret(PASSPHRASE), cost=CHEAP).create()


def test_by_its_uri_the_cost_is_the_full_one(path):
    uri = f"file-kek:{path}?passphrase=env:P"
    open_admin(uri, environ={"P": PASSPHRASE}).create()
    assert json.loads(path.read_text())["scrypt"]["n"] == 2**17
    kms = open_kms(uri, environ={"P": PASSPHRASE})
    assert kms.unwrap(kms.wrap(DEK, AAD), AAD) == DEK
    assert "for development and small teams" in kms.describe().notes[0]


def test_no_key_stays_as_bytes_in_memory(admin, path):
    """What Python holds as an object can be found by the collector; a cipher object shows no key."""
    kms = opened(path)
    kms.wrap(DEK, AAD)
    held = [one for one in gc.get_objects() if isinstance(one, FileKek)]
    assert kms in held
    reached, seen = [kms], set()
    while reached:
        one = reached.pop()
        if id(one) in seen or isinstance(one, type) or callable(one):
            continue
        seen.add(id(one))
        assert not (isinstance(one, bytes | bytearray) and len(one) in (32, 64) and any(one)), one
        reached += gc.get_referents(one)
