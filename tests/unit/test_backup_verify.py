"""``verify`` finds every damage, tells what it could not look at, and leaves out only what it has proven before."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.backup_bed import Bed
from tests.backup_months import NEXT, OLD, month_bed
from tests.backup_months import backup as of_month
from tests.backup_months import wal as wal_of_month
from tests.forks import in_a_child
from tests.small_archive import LAST, NOW, PROMISED, At, aged, backup, copy_of, month, names, small_bed, wal
from tests.wal_files import segment_bytes_of, segment_name

from dbsec.backup import Repository
from dbsec.backup.catalog import BASE, description_name
from dbsec.backup.key_notes import SHREDS, shred_stem
from dbsec.backup.key_records import EPOCHS
from dbsec.backup.recipients import create_recipient
from dbsec.backup.repository import MARKER
from dbsec.backup.sealed import Header
from dbsec.backup.verified import Ledger, opened
from dbsec.backup.verifying import Verified, verify
from dbsec.backup.wal.names import object_name
from dbsec.errors import ConfigError, UsageError
from dbsec.kms import KmsUnavailable
from dbsec.store import ObjectInfo


def run(repository: Repository, **told: object) -> Verified:
    return verify(repository, LAST, promised=PROMISED, clock=At(NOW), **told)  # type: ignore[arg-type]


def codes(done: Verified) -> set[str]:
    return {one.code for one in done.findings}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bed:
    """A repository without a fault, which no test changes."""
    bed = small_bed(tmp_path_factory.mktemp("verify"))
    month(bed.repository)
    bed.repository.put("notes/witness/one", b"seen")
    bed.repository.put("wal/history/00000002.history", b"1\t0/FF00000\tno reason\n")
    (bed.store_folder / "wal/history/00000002.history").unlink()
    aged(bed, 40)
    return bed


@pytest.fixture
def bed(whole: Bed, tmp_path: Path) -> Bed:
    """A copy that may be damaged."""
    return copy_of(whole, tmp_path)


def test_what_is_whole_leaves_no_doubt(whole: Bed) -> None:
    done = run(whole.again())
    assert (done.findings, done.unknown, done.notes) == ([], [], [])
    apart = {name for name in names(whole.repository) if name.startswith("keys/")} | {MARKER}
    assert done.objects == len(names(whole.repository)) - len(apart)
    assert done.keys == len(apart) - 1
    assert done.doubtless


def flip(path: Path, at: int = -1) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def damages(bed: Bed) -> dict[str, tuple[Callable[[], object], set[str]]]:
    """Name each damage, how it is done, and the codes by which it is told."""
    store, listed = bed.store_folder, names(bed.repository)
    ids = sorted({name.split("/")[1] for name in listed if name.startswith(BASE)})
    full, last = ids[2], ids[4]
    segments = [name for name in listed if name.startswith("wal/0")]
    data, other = f"{BASE}{last}/data/00000000", f"{BASE}{last}/data/00000001"
    key = store / f"{EPOCHS}{bed.repository.header(data).epoch}.json"

    def swap(one: str, two: str) -> None:
        first, second = (store / one).read_bytes(), (store / two).read_bytes()
        (store / one).write_bytes(second)
        (store / two).write_bytes(first)

    def cut(name: str, size: int) -> None:
        os.truncate(store / name, size)

    def add(name: str, raw: bytes = b"x") -> None:
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(raw)

    size = (store / data).stat().st_size
    return {
        "a bit of data": (lambda: flip(store / data), {"BAK201"}),
        "a bit of a header": (lambda: flip(store / data, 60), {"BAK201"}),
        "a bit of WAL": (lambda: flip(store / segments[10]), {"BAK201"}),
        "a bit of a description": (lambda: flip(store / description_name(last)), {"BAK201", "BAK207"}),
        "a bit of a note": (lambda: flip(store / "notes/witness/one"), {"BAK201"}),
        "a bit of a key": (
            lambda: flip(key, key.read_bytes().index(b'"wrapped":"') + 20),
            {"BAK204", "BAK207"},
        ),
        "cut by a byte": (lambda: cut(data, size - 1), {"BAK201"}),
        "cut to a header": (lambda: cut(data, 300), {"BAK201"}),
        "emptied": (lambda: cut(segments[10], 0), {"BAK201"}),
        "longer": (lambda: add(data, (store / data).read_bytes() + b"\0" * 16), {"BAK201"}),
        "swapped": (lambda: swap(data, other), {"BAK201"}),
        "swapped WAL": (lambda: swap(segments[10], segments[11]), {"BAK201"}),
        "data missing": (lambda: (store / data).unlink(), {"BAK202"}),
        "description missing": (lambda: (store / description_name(full)).unlink(), {"BAK208"}),
        "WAL of a backup missing": (lambda: (store / segments[9]).unlink(), {"BAK205", "BAK206"}),
        "WAL after a backup missing": (lambda: (store / segments[10]).unlink(), {"BAK206"}),
        "key missing": (key.unlink, {"BAK204", "BAK207"}),
        "a name beside": (lambda: add("base/x/y"), {"BAK203"}),
        "a name that hides": (lambda: add("wal/!"), {"BAK203"}),
        "a name among data": (lambda: add(f"{BASE}{last}/data/00000009"), {"BAK201", "BAK203"}),
        "a strange history": (lambda: add("wal/history/x\x1b[2J.history"), {"BAK203"}),
        "a strange segment": (lambda: add("wal/00000001/00000000/0000000100000000FFFFFFFF"), {"BAK203"}),
        "no backup": (lambda: shutil.rmtree(store / "base"), {"BAK209"}),
    }


EVERY = (
    "a bit of data", "a bit of a header", "a bit of WAL", "a bit of a description", "a bit of a note", "a bit of a key",
    "cut by a byte", "cut to a header", "emptied", "longer", "swapped", "swapped WAL", "data missing",
    "description missing", "WAL of a backup missing", "WAL after a backup missing", "key missing", "a name beside",
    "a name that hides", "a name among data", "a strange history", "a strange segment", "no backup",
)  # fmt: skip


@pytest.mark.parametrize("damage", EVERY)
def test_every_damage_is_found(bed: Bed, damage: str) -> None:
    act, wanted = damages(bed)[damage]
    act()
    done = run(bed.again())
    assert not done.doubtless
    assert wanted <= codes(done), [one.message for one in done.findings]
    assert all(text.isprintable() for one in done.findings for text in (one.target, one.message))


def test_no_damage_is_left_out(whole: Bed) -> None:
    assert tuple(damages(whole)) == EVERY


def test_the_promised_window_counts_from_the_oldest_backup_that_leads_here(bed: Bed) -> None:
    """A marker that was written anew does not make a repository young: its keys bear their age in their names."""
    for id in sorted(one.name for one in (bed.store_folder / BASE).iterdir())[:4]:
        shutil.rmtree(bed.store_folder / BASE / id)
    for name in names(bed.repository, BASE):
        (bed.store_folder / name).unlink()
    backup(bed.repository, 12, 1)
    assert "BAK210" in codes(run(bed.again()))
    aged(bed, 2)
    done = run(bed.again())
    assert done.doubtless
    assert "younger" in done.notes[0]
    first = min((bed.store_folder / EPOCHS).iterdir())
    first.rename(first.with_name("20200101T000000Z-00000000.json"))
    assert {"BAK204", "BAK210"} <= codes(run(bed.again()))


def test_wal_that_has_ended_is_a_doubt(bed: Bed) -> None:
    newest = bed.store_folder / object_name(segment_name(12))
    os.utime(newest, (NOW.timestamp() - 90_000,) * 2)
    done = run(bed.again())
    assert (done.findings, len(done.unknown)) == ([], 1)
    assert run(bed.again(), silent_for=timedelta(days=2)).doubtless


def test_a_short_segment_is_no_segment(bed: Bed) -> None:
    file = segment_name(13)
    bed.repository.put(object_name(file), segment_bytes_of(file)[:-1], timeline=1)
    assert codes(run(bed.again())) == {"BAK201"}


def test_a_backup_that_is_taken_is_no_fault(bed: Bed) -> None:
    made = backup(bed.repository, 12, 0.01, serial=7)
    (bed.store_folder / description_name(made.id)).unlink()
    done = run(bed.again())
    assert done.doubtless
    assert "being taken" in done.notes[0]


class Away:
    """A KMS that does not answer."""

    def __getattr__(self, name: str) -> Any:
        raise KmsUnavailable("no answer")

    def unwrap_many(self, items: Any) -> Any:
        return [KmsUnavailable("no answer") for _ in items]

    wrap_many = rewrap_many = unwrap_many


def test_a_kms_that_is_away_is_no_verdict(bed: Bed) -> None:
    there = bed.again()
    keys = there.keys.under(kms=Away())  # type: ignore[arg-type]
    done = run(Repository(there.store, there.system, keys, there.keys.content(), patience_s=0.1))
    assert not done.findings
    assert len(done.unknown) > done.keys == 0


def test_a_shredded_month_is_no_fault(tmp_path: Path) -> None:
    bed = month_bed(tmp_path)
    of_month(bed, OLD, start=1)
    wal_of_month(bed, OLD, 2)
    of_month(bed, NEXT, start=3)
    before = codes(run(bed.again()))
    (tmp_path / "kms" / f"{OLD}.json").unlink()
    assert {"BAK204", "BAK207"} <= codes(run(bed.again()))
    bed.repository.put(f"{SHREDS}{shred_stem(OLD, 'done')}-0123abcd", b"{}")
    done = run(bed.again())
    assert codes(done) <= before
    assert done.shredded == 3
    assert any("was shredded" in note for note in done.notes)


def test_what_a_host_that_only_writes_has_put_is_verified_elsewhere(bed: Bed) -> None:
    recipient = create_recipient(bed.repository.keys)
    told = {"kms": "", "recipient": recipient.public.hex(), "content_key": "env:CONTENT"}
    bed.environ = {**bed.environ, "CONTENT": bed.repository.keys.content().hex()}
    writer = bed.again(**told)
    wal(writer, 13)
    backup(writer, 13, 0.01)
    with pytest.raises(UsageError, match="only writes"):
        run(writer)
    done = run(bed.again())
    assert done.doubtless, [one.message for one in done.findings]
    flip(bed.store_folder / object_name(segment_name(13)))
    assert codes(run(bed.again())) == {"BAK201"}


# --- what was verified before -----------------------------------------------------------------------------------


def by_record(bed: Bed, *, days: float = 0, again_after: float = 30, store: str = "here") -> Verified:
    repository = bed.again()
    told = {"system": repository.system, "store": store, "again_after": timedelta(days=again_after)}
    with opened(bed.folder / "verified", **told) as ledger:  # type: ignore[arg-type]
        at = At(NOW + timedelta(days=days))
        silent_for = timedelta(days=99)
        return verify(repository, LAST, promised=PROMISED, clock=at, ledger=ledger, silent_for=silent_for)


def test_what_is_unchanged_is_not_read_again(bed: Bed) -> None:
    first = by_record(bed)
    assert first.skipped == 0
    again = by_record(bed)
    assert (again.objects, again.skipped) == (0, first.objects)
    wal(bed.repository, 13)
    third = by_record(bed)
    assert (third.objects, third.skipped) == (1, first.objects)
    late = by_record(bed, days=31)
    assert (late.objects, late.skipped) == (first.objects + 1, 0)
    assert all(one.doubtless for one in (first, again, third))


@pytest.mark.parametrize("damage", EVERY)
def test_every_damage_since_then_is_found(bed: Bed, damage: str) -> None:
    assert by_record(bed).doubtless
    act, wanted = damages(bed)[damage]
    act()
    for _ in range(2):  # what was damaged is not recorded as proven
        assert wanted <= codes(by_record(bed))


def test_a_record_is_of_one_repository_and_of_one_run(bed: Bed) -> None:
    by_record(bed)
    with pytest.raises(ConfigError, match="another repository"):
        by_record(bed, store="there")
    path = bed.folder / "verified"
    with opened(path, system=bed.repository.system, store="here", again_after=timedelta(1)), pytest.raises(UsageError):
        by_record(bed)
    by_record(bed)
    path.write_bytes(path.read_bytes()[:-20])
    torn = by_record(bed)
    assert (torn.objects, torn.doubtless) == (1, True)
    path.write_bytes(b"something else\n")
    with pytest.raises(ConfigError, match="no record"):
        by_record(bed)


def test_a_killed_run_has_not_worked_for_nothing(bed: Bed) -> None:
    killed = bed.again()
    seen = 0

    class Dies(Ledger):
        def add(self, entry: ObjectInfo, header: Header, now: datetime) -> None:
            nonlocal seen
            super().add(entry, header, now)
            self.sync()
            seen += 1
            if seen == 7:
                os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        told = {"system": killed.system, "store": "here", "again_after": timedelta(days=30)}
        with opened(bed.folder / "verified", **told) as ledger:  # type: ignore[arg-type]
            ledger.__class__ = Dies
            verify(killed, LAST, promised=PROMISED, clock=At(NOW), ledger=ledger)

    assert in_a_child(work) == -signal.SIGKILL
    assert by_record(bed).skipped == 7
