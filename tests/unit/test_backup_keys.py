"""Keys of backups: a new KEK, the proof of it, what an altered key object can do, and hosts that only write."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.backup_bed import SYSTEM, Bed, make_bed, make_kek
from tests.backup_months import NAMES, PLAIN, At, fill
from tests.forks import in_a_child

from dbsec.backup import Cluster, KeyUnavailable, Tampered, init_repository
from dbsec.backup.key_notes import REKEYS, notes
from dbsec.backup.key_records import (
    CONTENT,
    EPOCHS,
    ESCROW,
    PRIMARY,
    REWRAPS,
    KeyRecord,
    Wrap,
    epoch_name,
    page_bytes,
)
from dbsec.backup.key_states import groups, states
from dbsec.backup.keys import BackupKeys
from dbsec.backup.proving import prove
from dbsec.backup.recipients import Recipient, create_recipient, recipients
from dbsec.backup.rekey import Targets, rekey, survey
from dbsec.backup.repository import Repository
from dbsec.errors import ConfigError, NewerFormat
from dbsec.kms import Kms, KmsUnavailable, Patience, open_admin, open_kms


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return make_bed(tmp_path)


def new_kek(bed: Bed, name: str = "new") -> str:
    return make_kek(bed.folder / f"{name}.json", bed.environ)


def kms_of(bed: Bed, uri: str) -> Kms:
    return open_kms(uri, environ=bed.environ, patience=Patience(within_s=0.1))


# --- a new KEK


def test_another_kek_opens_all_and_no_object_of_data_has_changed(bed: Bed) -> None:
    fill(bed)
    before = {path: path.read_bytes() for path in bed.store_folder.rglob("*") if path.is_file()}
    uri = new_kek(bed)
    done = rekey(bed.again(), Targets(kms_of(bed, uri)))
    assert (done.rewrapped, done.failed) == (6, [])  # the content key too
    assert all(path.read_bytes() == raw for path, raw in before.items())
    assert bed.again(kms=uri).get(NAMES[3]) == PLAIN + NAMES[3].encode()
    assert [told["rewrapped"] for _, told in notes(bed.again(kms=uri), REKEYS)] == [6]


def test_the_old_kek_still_opens_until_it_is_destroyed(bed: Bed) -> None:
    """What archives with the old settings goes on: the first wraps are there."""
    fill(bed, 1)
    rekey(bed.again(), Targets(kms_of(bed, new_kek(bed))))
    assert bed.again().get(NAMES[0])


def test_a_second_run_finds_nothing_to_do(bed: Bed) -> None:
    fill(bed)
    targets = Targets(kms_of(bed, new_kek(bed)))
    rekey(bed.again(), targets)
    pages = sorted(bed.store_folder.glob("keys/rewraps/*/*"))
    again = rekey(bed.again(), targets)
    assert again.rewrapped == 0
    assert sorted(bed.store_folder.glob("keys/rewraps/*/*")) == pages


def test_a_new_version_of_the_same_kek(bed: Bed) -> None:
    fill(bed)
    open_admin(bed.settings.kms, environ=bed.environ).rotate()
    targets = Targets(kms_of(bed, bed.settings.kms))
    assert len(survey(bed.again().keys, targets).stale) == 6
    assert rekey(bed.again(), targets).rewrapped == 6
    held = {(held.kek, held.version) for key in states(bed.again().keys).keys for held in key.held}
    assert {version for _, version in held} == {"2"}


def test_an_escrow_that_comes_later_gets_every_key(bed: Bed) -> None:
    fill(bed)
    escrow = new_kek(bed, "escrow")
    assert rekey(bed.again(), Targets(kms_of(bed, bed.settings.kms), kms_of(bed, escrow))).rewrapped == 6
    (bed.folder / "kek.json").unlink()
    assert bed.again(kms=escrow).get(NAMES[0])
    assert bed.again(escrow=escrow).get(NAMES[1])


def test_an_epoch_begun_under_the_old_kek_afterwards_is_found_by_the_next_run(bed: Bed) -> None:
    fill(bed, 1)
    uri = new_kek(bed)
    targets = Targets(kms_of(bed, uri))
    rekey(bed.again(), targets)
    late = bed.again()
    late.put(NAMES[1], PLAIN, epoch=late.keys.begin())
    with pytest.raises(KeyUnavailable):
        bed.again(kms=uri).get(NAMES[1])
    assert rekey(bed.again(), targets).rewrapped == 1
    assert bed.again(kms=uri).get(NAMES[1]) == PLAIN


def test_a_kek_of_the_same_name_in_another_kms_is_not_believed(bed: Bed) -> None:
    """Two servers may call their keys alike: what a wrap says of itself is not enough."""
    fill(bed, 2)
    told = open_kms(bed.settings.kms, environ=bed.environ).describe()

    class Namesake:
        def __init__(self, real: Kms) -> None:
            self.real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def describe(self, aad: Any = None) -> Any:
            return told

    done = rekey(bed.again(), Targets(Namesake(kms_of(bed, uri := new_kek(bed)))))  # type: ignore[arg-type]
    assert done.rewrapped == 3
    assert bed.again(kms=uri).get(NAMES[1])


def test_a_process_that_outlives_a_rekey_and_the_old_kek(bed: Bed) -> None:
    fill(bed, 2)
    uri = new_kek(bed)
    reader = bed.again(escrow=uri)  # knows both, and has read no page yet
    reader.get(NAMES[0])
    rekey(bed.again(), Targets(kms_of(bed, uri)))
    open_admin(bed.settings.kms, environ=bed.environ).destroy()
    assert reader.get(NAMES[1])


def test_a_clock_that_was_put_back_does_not_make_new_wraps_old(bed: Bed) -> None:
    fill(bed, 1)
    one, two = new_kek(bed), new_kek(bed, "two")
    rekey(bed.again(), Targets(kms_of(bed, one)))
    hands = At(datetime(2020, 1, 1, tzinfo=UTC))
    rekey(bed.again(kms=one), Targets(kms_of(bed, two)), clock=hands)
    assert rekey(bed.again(kms=two), Targets(kms_of(bed, two))).rewrapped == 0


@pytest.mark.parametrize("edge", ["before", "after"])
def test_a_rekey_survives_kill_9_at_every_put(tmp_path: Path, edge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbsec.backup.rekey.PAGE", 2)
    bed = make_bed(tmp_path)
    fill(bed)
    uri = new_kek(bed)
    puts = 0

    def killed_at(number: int) -> int:
        def run() -> None:
            repository = bed.again()
            put, seen = repository.store.put, 0

            def counted(name: str, raw: bytes) -> None:
                nonlocal seen
                seen += 1
                if edge == "before" and seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                put(name, raw)
                if edge == "after" and seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

            repository.store.put = counted  # type: ignore[method-assign]
            rekey(repository, Targets(kms_of(bed, uri)))

        return in_a_child(run)

    done = 0
    while (code := killed_at(puts + 1)) == -signal.SIGKILL:
        puts += 1
        lacking = len(survey(bed.again().keys, Targets(kms_of(bed, uri))).stale)
        assert lacking <= max(0, 6 - done)
        done = 6 - lacking
        assert bed.again().get(NAMES[0])
        if puts > 20:
            break
    assert code == 0
    assert puts >= 1
    assert not survey(bed.again().keys, Targets(kms_of(bed, uri))).stale
    assert all(bed.again(kms=uri).get(name) for name in NAMES)


def test_a_kms_that_goes_away_in_the_middle(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbsec.backup.rekey.PAGE", 2)
    fill(bed)
    uri = new_kek(bed)
    kms, calls = kms_of(bed, uri), 0

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(kms, name)

        def wrap_many(self, items: Any) -> Any:
            nonlocal calls
            calls += 1
            return kms.wrap_many(items) if calls < 3 else [KmsUnavailable("gone") for _ in items]  # type: ignore[attr-defined]

        def rewrap_many(self, items: Any) -> Any:
            return kms.rewrap_many(items)  # type: ignore[attr-defined]

        def unwrap_many(self, items: Any) -> Any:
            return kms.unwrap_many(items)  # type: ignore[attr-defined]

    with pytest.raises(KmsUnavailable, match="4 of 6") as caught:
        rekey(bed.again(), Targets(Failing()))  # type: ignore[arg-type]
    assert "goes on" in caught.value.hint
    assert rekey(bed.again(), Targets(kms)).rewrapped == 2


# --- the proof


def test_the_proof_names_what_may_be_retired(bed: Bed) -> None:
    fill(bed)
    old = open_kms(bed.settings.kms, environ=bed.environ).describe().kek
    targets = Targets(kms_of(bed, new_kek(bed)))
    before = prove(bed.again(), targets)
    assert not before.proven
    assert before.retirable == []
    assert {name for name, _ in before.failed} >= set(NAMES)
    rekey(bed.again(), targets)
    proof = prove(bed.again(), targets)
    assert (proof.failed, proof.objects) == ([], 6)  # the note of the rekey
    assert proof.retirable == [f"{old} version 1"]
    assert proof.others[f"{old} version 1"].older == 6
    assert proof.note


def test_what_the_proof_allows_loses_nothing(bed: Bed) -> None:
    fill(bed)
    uri = new_kek(bed)
    rekey(bed.again(), Targets(kms_of(bed, uri)))
    assert prove(bed.again(), Targets(kms_of(bed, uri))).retirable
    open_admin(bed.settings.kms, environ=bed.environ).destroy()
    assert [bed.again(kms=uri).get(name) for name in NAMES] == [PLAIN + name.encode() for name in NAMES]


@pytest.mark.parametrize("damage", ["bit", "cut", "longer", "swapped", "key gone"])
def test_the_proof_finds_an_object_that_does_not_open(bed: Bed, damage: str) -> None:
    for name in NAMES[:3]:
        bed.repository.put(name, os.urandom(1_500_000), epoch=bed.repository.keys.begin())
    targets = Targets(kms_of(bed, bed.settings.kms))
    path, other = (bed.store_folder / name for name in NAMES[:2])
    raw = path.read_bytes()
    if damage == "bit":
        path.write_bytes(raw[:-100] + bytes([raw[-100] ^ 1]) + raw[-99:])
    elif damage == "cut":
        path.write_bytes(raw[:-1])
    elif damage == "longer":
        path.write_bytes(raw + b"\0")
    elif damage == "swapped":
        path.write_bytes(other.read_bytes())
    else:
        (bed.store_folder / epoch_name(bed.repository.header(NAMES[0]).epoch)).unlink()
    proof = prove(bed.again(), targets)
    assert [name for name, _ in proof.failed] == [NAMES[0]]
    assert proof.objects == 2
    assert not proof.retirable


def test_a_foreign_object_is_told_and_no_failure(bed: Bed) -> None:
    fill(bed, 1)
    (bed.store_folder / "readme.txt").write_text("hello")
    proof = prove(bed.again(), Targets(kms_of(bed, bed.settings.kms)))
    assert (proof.proven, proof.foreign) == (True, ["readme.txt"])


def test_an_escrow_that_lacks_a_key_is_no_proof(bed: Bed) -> None:
    fill(bed, 2)
    escrow = kms_of(bed, new_kek(bed, "escrow"))
    targets = Targets(kms_of(bed, bed.settings.kms), escrow)
    assert all(why.startswith("escrow") for _, why in prove(bed.again(), targets).failed)
    assert not prove(bed.again(), targets).proven
    rekey(bed.again(), targets)
    assert prove(bed.again(), targets).proven


def test_a_kms_that_is_away_proves_nothing(bed: Bed) -> None:
    fill(bed, 1)

    class Away:
        def __getattr__(self, name: str) -> Any:
            raise KmsUnavailable("no answer")

        def unwrap_many(self, items: Any) -> Any:
            return [KmsUnavailable("no answer") for _ in items]

        rewrap_many = unwrap_many

    with pytest.raises(KeyUnavailable) as caught:
        prove(bed.again(), Targets(Away()))  # type: ignore[arg-type]
    assert not caught.value.refused


# --- altered key objects


def _epochs(bed: Bed) -> list[Path]:
    return sorted(bed.store_folder.glob(f"{EPOCHS}*"))


def _edit(path: Path, change: Callable[[Any], None]) -> None:
    told = json.loads(path.read_bytes())
    change(told)
    path.write_bytes(json.dumps(told).encode())


def _flip(told: Any) -> None:
    raw = bytearray(base64.b64decode(told["wraps"][0]["wrapped"]))
    raw[-1] ^= 1
    told["wraps"][0]["wrapped"] = base64.b64encode(raw).decode()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_flip, KeyUnavailable),
        (lambda told: told.update(system=SYSTEM + 1), Tampered),
        (lambda told: told.update(wraps=[]), KeyUnavailable),
        (lambda told: told.update(format=2), NewerFormat),
        (lambda told: told.update(magic="other"), Tampered),
        (lambda told: told["wraps"][0].update(holder="x25519:0123456789abcdef"), KeyUnavailable),
        (lambda told: told.update(name=told["name"] + "x"), Tampered),
    ],
    ids=["wrap", "cluster", "no wrap", "newer", "magic", "holder", "name"],
)
def test_an_altered_key_opens_nothing(bed: Bed, change: Callable[[Any], None], error: type[Exception]) -> None:
    fill(bed, 1)
    _edit(_epochs(bed)[0], change)
    with pytest.raises(error):
        bed.again().get(NAMES[0])


def test_swapped_keys_open_nothing(bed: Bed) -> None:
    fill(bed, 2)
    one, two = _epochs(bed)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    with pytest.raises(Tampered, match="it is the key"):
        bed.again().get(bed.repository and NAMES[0] if _epoch_of(bed, NAMES[0]) == one.stem else NAMES[1])
    # with the name put right, the KMS refuses: a wrap is bound to it
    told = json.loads(second)
    told["name"] = json.loads(first)["name"]
    one.write_bytes(json.dumps(told).encode())
    with pytest.raises(KeyUnavailable) as caught:
        bed.again().get(NAMES[0] if _epoch_of(bed, NAMES[0]) == one.stem else NAMES[1])
    assert caught.value.refused


def _epoch_of(bed: Bed, name: str) -> str:
    return bed.repository.header(name).epoch


def _page(bed: Bed, wraps: dict[str, tuple[Wrap, ...]] | bytes, run: str = "29991231T000000Z-00000000") -> None:
    path = bed.store_folder / f"{REWRAPS}{run}/000000"
    path.parent.mkdir(parents=True)
    path.write_bytes(wraps if isinstance(wraps, bytes) else page_bytes(wraps))


def test_a_page_that_gives_an_epoch_the_wrap_of_another_opens_nothing_else(bed: Bed) -> None:
    """Whoever may add objects can add such a page: it must neither lead elsewhere nor close the repository."""
    fill(bed, 2)
    records = {n: r for n, r in bed.again().keys.records().items() if isinstance(r, KeyRecord) and n.startswith(EPOCHS)}
    one, two = records
    _page(bed, {one: records[two].wraps, two: records[one].wraps})
    assert [bed.again().get(name) for name in NAMES[:2]] == [PLAIN + name.encode() for name in NAMES[:2]]
    for path in _epochs(bed):  # without the first wraps nothing opens, least of all with the other's key
        _edit(path, _flip)
    with pytest.raises(KeyUnavailable):
        bed.again().get(NAMES[0])


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"{}", Tampered),
        (b"[" * 10_000, Tampered),
        (b'{"format":2,"magic":"dbsec-backup-key","wraps":{}}', NewerFormat),
    ],
    ids=["empty", "nested", "newer"],
)
def test_a_page_that_is_none_closes_nothing_and_is_told(bed: Bed, raw: bytes, error: type[Exception]) -> None:
    fill(bed, 1)
    _page(bed, raw)
    assert bed.again().get(NAMES[0])
    assert len(states(bed.again().keys).bad) == 1
    assert rekey(bed.again(), Targets(kms_of(bed, new_kek(bed)))).failed
    _edit(_epochs(bed)[0], _flip)
    for page in (bed.store_folder / REWRAPS).glob("2026*/*"):
        page.unlink()
    with pytest.raises(error):
        bed.again().get(NAMES[0])


def test_a_key_object_that_is_gone(bed: Bed) -> None:
    fill(bed, 1)
    _epochs(bed)[0].unlink()
    with pytest.raises(KeyUnavailable, match="not in the store"):
        bed.again().get(NAMES[0])


# --- epochs


def test_no_epoch_serves_past_its_month(tmp_path: Path) -> None:
    bed = make_bed(tmp_path)
    hands = At(datetime(2026, 11, 30, 23, 50, tzinfo=UTC))
    keys = BackupKeys(bed.repository.store, SYSTEM, kms=bed.repository.keys.kms, clock=hands)
    first = keys.current()
    hands.moment += timedelta(minutes=5)
    assert keys.current() == first
    hands.moment += timedelta(minutes=10)
    assert keys.current().id.startswith("202612")
    other = BackupKeys(bed.repository.store, SYSTEM, kms=bed.repository.keys.kms, clock=hands)
    assert other.current().id == keys.current().id


def test_without_a_kms_nothing_is_put(bed: Bed) -> None:
    repository = bed.again()
    (bed.folder / "kek.json").rename(bed.folder / "away.json")
    before = sorted(bed.store_folder.rglob("*"))
    with pytest.raises(Exception, match=r"kek\.json"):
        repository.put(NAMES[0], PLAIN)
    assert sorted(bed.store_folder.rglob("*")) == before


def test_keys_are_listed_by_their_kek_and_age(bed: Bed) -> None:
    fill(bed, 3)
    found = states(bed.again().keys)
    assert [key.name for key in found.keys if not key.is_epoch] == [CONTENT]
    (group,) = groups(found.keys)
    assert (group.held.holder, group.held.version, group.epochs) == (PRIMARY, "1", 3)
    assert all(key.age < timedelta(minutes=5) for key in found.keys)


# --- hosts that only write


def write_only(bed: Bed, recipient: Recipient) -> Callable[[], Repository]:
    """Return what opens the repository as the host does that has a public key and the content key, and no more."""
    environ = {"CONTENT": bed.repository.keys.content().hex()}
    told = {"kms": "", "escrow": "", "recipient": recipient.public.hex(), "content_key": "env:CONTENT"}
    settings = bed.settings.model_copy(update=told)
    return lambda: init_repository(settings, Cluster(SYSTEM, 16 << 20), environ=environ)


def test_a_host_that_only_writes_begins_an_epoch_at_each_start(bed: Bed) -> None:
    start = write_only(bed, create_recipient(bed.repository.keys))
    for name in NAMES[:3]:
        host = start()
        assert host.put(name, PLAIN).fresh
        assert not start().put(name, PLAIN).fresh
        with pytest.raises(KeyUnavailable, match="only writes"):
            host.get(name)  # not even what it sealed itself
    reader = bed.again()
    assert [reader.get(name) for name in NAMES[:3]] == [PLAIN] * 3
    assert len({reader.header(name).epoch for name in NAMES[:3]}) == 3


def test_the_recipient_is_rekeyed_and_its_epochs_follow(bed: Bed) -> None:
    write_only(bed, create_recipient(bed.repository.keys))().put(NAMES[0], PLAIN)
    uri = new_kek(bed)
    targets = Targets(kms_of(bed, uri))
    done = rekey(bed.again(), targets)
    assert (done.rewrapped, done.for_recipient) == (2, 1)
    assert prove(bed.again(), targets).proven
    open_admin(bed.settings.kms, environ=bed.environ).destroy()
    assert bed.again(kms=uri).get(NAMES[0]) == PLAIN
    (known,) = recipients(bed.again(kms=uri).keys)
    assert known.epochs == 1


def test_nobody_else_can_begin_an_epoch_for_the_recipient(bed: Bed) -> None:
    """Its public key is public: an epoch counts only where the holder of the content key vouches for it."""
    recipient = create_recipient(bed.repository.keys)
    start = write_only(bed, recipient)
    start().put(NAMES[0], PLAIN)
    thief = BackupKeys(bed.repository.store, SYSTEM, recipient=recipient, content=os.urandom(32))
    forged = Repository(bed.repository.store, SYSTEM, thief, os.urandom(32))
    forged.put(NAMES[1], b"an altered segment")
    with pytest.raises(Tampered, match="no host of this repository has begun it"):
        bed.again().get(NAMES[1])
    assert bed.again().get(NAMES[0]) == PLAIN


def test_a_page_for_the_recipient_gives_no_epoch_another_key(bed: Bed) -> None:
    recipient = create_recipient(bed.repository.keys)
    fill(bed, 1)
    name = epoch_name(_epoch_of(bed, NAMES[0]))
    holder = recipient.holder
    _page(bed, {name: (Wrap(holder, holder, "1", recipient.encrypt(os.urandom(32), name)),)})
    assert bed.again().get(NAMES[0])


def test_a_host_without_the_content_key_seals_nothing(bed: Bed) -> None:
    settings = bed.settings.model_copy(
        update={"kms": "", "recipient": create_recipient(bed.repository.keys).public.hex()}
    )
    with pytest.raises(KeyUnavailable, match="only writes"):
        init_repository(settings, Cluster(SYSTEM, 16 << 20), environ={})


@pytest.mark.parametrize("wrong", ["", "ab", "zz" * 32])
def test_a_content_key_that_is_none(bed: Bed, wrong: str) -> None:
    settings = bed.settings.model_copy(update={"kms": "", "recipient": "aa" * 32, "content_key": "env:CONTENT"})
    with pytest.raises(ConfigError, match="content_key"):
        init_repository(settings, Cluster(SYSTEM, 16 << 20), environ={"CONTENT": wrong})


def test_two_kms_hold_what_one_alone_opens(tmp_path: Path) -> None:
    bed = make_bed(tmp_path)
    escrow = new_kek(bed, "escrow")
    both = bed.again(escrow=escrow)
    both.put(NAMES[0], PLAIN, epoch=both.keys.begin())
    record = both.keys.record(epoch_name(both.header(NAMES[0]).epoch))
    assert [wrap.holder for wrap in record.wraps] == [PRIMARY, ESCROW]
