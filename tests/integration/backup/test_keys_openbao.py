"""Keys of backups in a real OpenBao: many at once, none while it is away, a month that is destroyed, and by hand."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import time
from pathlib import Path

import pytest
from tests import by_hand
from tests.backup_bed import Bed, make_bed, make_kek
from tests.backup_months import NAMES, NEXT, OLD, PLAIN, bed_under, fill, forge_epochs, months, wal
from tests.forks import in_a_child
from tests.openbao import OpenBao

from dbsec.backup import KeyUnavailable
from dbsec.backup.keys import BackupKeys, KeyRecord
from dbsec.backup.proving import prove
from dbsec.backup.rekey import PAGE, Targets, rekey
from dbsec.backup.shredding import shred
from dbsec.evidence import Outcome
from dbsec.kms import KmsAdmin, KmsUnavailable, Patience, open_admin, open_kms

QUICK = Patience(timeout_s=0.3, within_s=0.2, failures=1000)


def new_key(openbao: OpenBao, name: str = "") -> str:
    """Make a key in Transit and return its uri."""
    uri = openbao.uri(name or f"backup-{secrets.token_hex(4)}")
    open_admin(uri, environ={}).create()
    return uri


def test_ten_thousand_epochs_within_seconds(openbao: OpenBao, tmp_path: Path) -> None:
    """Into another KEK in a file, from there into OpenBao, and on to its next version."""
    bed = make_bed(tmp_path)
    forge_epochs(bed, 10_000)
    uri, file_uri = new_key(openbao), make_kek(tmp_path / "new.json", bed.environ)
    took_s = {}
    for what, old, new in (("file", bed.settings.kms, file_uri), ("OpenBao", file_uri, uri), ("version", uri, uri)):
        if what == "version":
            open_admin(uri, environ={}).rotate()
        start = time.monotonic()
        done = rekey(bed.again(kms=old), Targets(open_kms(new, environ=bed.environ)))
        took_s[what] = time.monotonic() - start
        assert (done.rewrapped >= 10_001, done.failed) == (True, [])
    print("10,000 epochs, seconds:", {what: round(seconds, 1) for what, seconds in took_s.items()})
    assert len(list(bed.store_folder.glob("keys/rewraps/*/*"))) == 33
    assert max(took_s.values()) < 30
    start = time.monotonic()
    keys = bed.again(kms=uri).keys
    opened = keys.open_many(one for one in keys.records().values() if isinstance(one, KeyRecord))
    assert sum(isinstance(key, bytes) for key in opened.values()) == len(opened) > 10_000
    assert time.monotonic() - start < 20


def test_without_openbao_nothing_is_put_and_a_rekey_goes_on_later(
    openbao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbsec.backup.rekey.PAGE", 2)
    assert PAGE == 1000
    bed = make_bed(tmp_path)
    fill(bed)
    uri = new_key(openbao)
    keys = BackupKeys(bed.repository.store, bed.repository.system, kms=open_kms(uri, environ={}, patience=QUICK))
    kms = open_kms(uri, environ={}, patience=QUICK)
    put, pages = bed.repository.store.put, []

    def pausing(name: str, raw: bytes) -> None:
        put(name, raw)
        pages.append(name)
        if len(pages) == 2:
            openbao.pause()

    repository = bed.again()
    repository.store.put = pausing  # type: ignore[method-assign]
    try:
        with pytest.raises(KmsUnavailable, match="4 of 6"):
            rekey(repository, Targets(kms))
        before = sorted(path for path in bed.store_folder.rglob("*") if path.is_file())
        with pytest.raises(KmsUnavailable):
            keys.begin()
        with pytest.raises(KeyUnavailable) as caught:
            prove(bed.again(), Targets(kms))
        assert not caught.value.refused
        assert sorted(path for path in bed.store_folder.rglob("*") if path.is_file()) == before
    finally:
        openbao.resume()
    targets = Targets(open_kms(uri, environ={}))
    assert rekey(bed.again(), targets).rewrapped == 2
    assert prove(bed.again(), targets).proven


@pytest.fixture
def bao_bed(openbao: OpenBao, tmp_path: Path) -> Bed:
    mine = f"m-{secrets.token_hex(4)}-"
    for month in months():
        new_key(openbao, f"{mine}{month}")
    return bed_under(tmp_path, {}, kms=openbao.uri(mine + "{tenant}"))


def test_a_month_in_openbao_ends(bao_bed: Bed) -> None:
    gone, stays = wal(bao_bed, OLD, 1), wal(bao_bed, NEXT, 2)
    copied = bao_bed.folder / "copied"
    shutil.copytree(bao_bed.store_folder, copied)
    uri = bao_bed.settings.kms
    done = shred(bao_bed.again(), OLD, lambda role, period: open_admin(uri, environ={}, tenant=period))
    assert (done.outcome, done.epochs) == (Outcome.PASS, 1)
    for there in (bao_bed.again(), bao_bed.again(store=f"file://{copied}")):
        with pytest.raises(KeyUnavailable) as caught:
            there.get(gone)
        assert caught.value.refused
        assert there.get(stays) == PLAIN
    assert prove(bao_bed.again(), Targets(open_kms(uri, environ={}))).shredded == 1


def test_a_shredding_that_was_killed_goes_on_where_the_key_has_gone(bao_bed: Bed) -> None:
    """OpenBao does not tell a key that is gone from one that is forbidden: the note of what was begun does."""
    wal(bao_bed, OLD, 1)

    def real(period: str) -> KmsAdmin:
        return open_admin(bao_bed.settings.kms, environ={}, tenant=period)

    class Deadly:
        def destroy(self) -> None:
            real(OLD).destroy()
            os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        shred(bao_bed.again(), OLD, lambda role, period: Deadly())  # type: ignore[arg-type, return-value]

    assert in_a_child(killed) == -signal.SIGKILL
    assert shred(bao_bed.again(), OLD, lambda role, period: real(period)).outcome is Outcome.PASS


def test_by_hand_openbao_is_asked_for_the_keys_and_the_file_does_the_rest(openbao: OpenBao, tmp_path: Path) -> None:
    uri = new_key(openbao)
    (tmp_path / "bed").mkdir()
    bed = bed_under(tmp_path / "bed", {}, kms=uri)
    fill(bed, 2)
    asked = by_hand.run(tmp_path, bed.store_folder, "ask")
    assert asked.returncode == 0
    name = uri.partition("?")[0].rpartition("/")[2]
    lines = []
    for told in map(json.loads, asked.stdout.splitlines()):
        wrapped = base64.b64decode(told["wrapped"])
        version = int.from_bytes(wrapped[1:5], "big")
        text = f"vault:v{version}:{base64.b64encode(wrapped[5:]).decode()}"
        answer = openbao.admin().write(f"transit/decrypt/{name}", {"ciphertext": text, "context": told["context"]})
        lines.append(f"{told['key']} {base64.b64decode(answer['data']['plaintext']).hex()}\n")
    (tmp_path / "keys").write_text("".join(lines))
    done = by_hand.run(tmp_path, bed.store_folder, "--keys", tmp_path / "keys", "open", NAMES[1])
    assert done.stdout == bed.repository.get(NAMES[1])
