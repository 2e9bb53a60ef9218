"""``expire`` killed at every step leaves nothing that looks whole and is not; what is locked stays whole."""

from __future__ import annotations

import os
import shutil
import signal
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from tests.backup_bed import Bed
from tests.forks import in_a_child
from tests.small_archive import LAST, NOW, PROMISED, At, aged, backup, copy_of, month, names, small_bed, wal
from tests.wal_files import SMALL

from dbsec.backup import Repository, catalog
from dbsec.backup.catalog import BASE, description_name, manifest_name
from dbsec.backup.errors import StillNeeded
from dbsec.backup.expiring import Expired, expire
from dbsec.backup.expiry_plan import IDLE, TOMBS, plan
from dbsec.backup.key_records import EPOCHS
from dbsec.backup.settings import RetentionSettings
from dbsec.backup.verifying import verify
from dbsec.backup.wal import pieces
from dbsec.backup.wal.names import Segment
from dbsec.store import StoreRefused
from dbsec.store.bucket import Lock
from dbsec.store.file import FileStore

WINDOW = RetentionSettings(count=1)  # with a promise of 7 days: b, b1 and b2 stay


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Bed:
    made = small_bed(tmp_path_factory.mktemp("expire"))
    month(made.repository)
    aged(made, 40)
    return made


@pytest.fixture
def bed(filled: Bed, tmp_path: Path) -> Bed:
    return copy_of(filled, tmp_path)


def run(repository: Repository, **told: object) -> Expired:
    return expire(repository, WINDOW, promised=PROMISED, clock=At(NOW), **told)  # type: ignore[arg-type]


def whole(repository: Repository) -> bool:
    """Tell whether all that looks like a backup is one, with its chain and its WAL."""
    done = verify(repository, LAST, promised=PROMISED, clock=At(NOW), silent_for=timedelta(days=99))
    assert done.doubtless, [one.message for one in done.findings]
    return True


def left(repository: Repository) -> list[str]:
    return [name for name in names(repository) if not name.startswith("keys/")]


class Dies(FileStore):
    """A folder whose user is killed by SIGKILL before one of its writes; 0 is none, and counts them."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(folder)
        self.step, self.done = step, 0

    def _at(self) -> None:
        self.done += 1
        if self.done == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

    def put(self, name: str, data: bytes) -> None:
        self._at()
        super().put(name, data)

    def delete(self, name: str) -> None:
        self._at()
        super().delete(name)


def test_killed_at_every_step_it_is_ended_by_the_next_run(bed: Bed, tmp_path: Path) -> None:
    """Before each write of it, which is after the one that precedes it."""
    shutil.copytree(bed.store_folder, tmp_path / "whole")
    counted, found = Dies(tmp_path / "whole", 0), bed.again()
    done = run(Repository(counted, found.system, found.keys, found.keys.content()))
    assert (len(done.backups), done.objects, done.wal) == (2, 8, 5)
    end = left(bed.again(store=f"file://{tmp_path}/whole"))
    for step in range(1, counted.done + 1):
        folder = tmp_path / f"{step}"
        shutil.copytree(bed.store_folder, folder)
        there = bed.again(store=f"file://{folder}")
        dying = Repository(Dies(folder, step), there.system, there.keys, there.keys.content())
        assert in_a_child(partial(run, dying)) == -signal.SIGKILL
        assert whole(there)
        run(there)
        assert [name for name in left(there) if not name.startswith("probes/")] == end
        assert plan(there, WINDOW, promised=PROMISED, now=NOW).empty
        shutil.rmtree(folder)


def test_the_plan_is_what_is_done(bed: Bed) -> None:
    before = left(bed.repository)
    found = plan(bed.again(), WINDOW, promised=PROMISED, now=NOW)
    assert left(bed.repository) == before
    done = run(bed.again())
    assert done.backups == [one.id for one in found.retained.expire]
    assert (done.objects + len(done.backups), done.wal, done.pieces) == (found.objects, found.wal, found.pieces)
    assert all(backup in found.retained.keep for backup in catalog.ids(bed.repository))


class Held:
    """Locks of some objects, as a bucket tells them."""

    def __init__(self, *held: str) -> None:
        self.held = held

    def of(self, name: str) -> Lock | None:
        return Lock("locked (COMPLIANCE)", NOW + timedelta(days=3)) if name.startswith(self.held) else None


def test_a_locked_description_keeps_all_that_it_needs(bed: Bed) -> None:
    """The child is locked: it looks whole, so its parent and its WAL stay, though these are not locked."""
    a, a1, *_ = list(catalog.ids(bed.repository))
    done = run(bed.again(), locks=Held(description_name(a1)))
    assert done.backups == []
    assert set(done.kept) == {a, a1}
    assert "COMPLIANCE" in done.kept[a1]
    assert a1 in done.kept[a]
    assert done.until == NOW + timedelta(days=3)
    assert done.wal == 1  # of neither
    assert not [name for name in names(bed.repository, TOMBS) if name.endswith(a1)]
    assert whole(bed.again())
    assert run(bed.again()).backups == [a1, a]


def test_locked_data_is_told_and_deleted_later(bed: Bed) -> None:
    a, a1, *_ = list(catalog.ids(bed.repository))
    done = run(bed.again(), locks=Held(f"{BASE}{a}/data/", "wal/00000001/00000000/000000010000000000000001"))
    assert done.backups == [a1, a]
    assert len(done.locked) == 4
    assert all("until" in one for one in done.locked)
    assert whole(bed.again())
    again = run(bed.again())
    assert (again.leftovers, again.objects, again.wal, again.locked) == ([a], 3, 1, [])
    assert not names(bed.repository, f"{BASE}{a}/")


def test_a_store_that_refuses_keeps_what_it_needs(bed: Bed) -> None:
    """Without a word of locks, as of a folder whose files are immutable."""
    a, a1, *_ = list(catalog.ids(bed.repository))

    class Immutable(FileStore):
        def delete(self, name: str) -> None:
            if name == description_name(a1):
                raise StoreRefused(f"'{name}': operation not permitted")
            super().delete(name)

    there = bed.again()
    done = run(Repository(Immutable(bed.store_folder), there.system, there.keys, there.keys.content()))
    assert set(done.kept) == {a, a1}
    assert whole(bed.again())


def test_what_is_being_taken_keeps_what_it_may_build_on(bed: Bed) -> None:
    """b is no longer wanted by count once c is there, but a child of it may be finished any moment."""
    wal(bed.repository, *range(13, 16))
    newest = backup(bed.repository, 13, 0.001)
    child = backup(bed.repository, 14, 0.04, parent=list(catalog.ids(bed.repository))[4], serial=9)
    (bed.store_folder / description_name(child.id)).unlink()
    settings, now = RetentionSettings(count=1), NOW
    judged = plan(bed.again(), settings, promised=timedelta(0), now=now)
    assert judged.taking == (child.id,)
    assert child.parent in judged.retained.keep
    assert newest.id in judged.retained.keep
    late = plan(bed.again(), settings, promised=timedelta(0), now=now + 2 * IDLE)
    assert late.leftovers == (child.id,)
    assert child.parent not in late.retained.keep


def test_a_description_that_does_not_open_stops_it(bed: Bed) -> None:
    newest = bed.store_folder / description_name(list(catalog.ids(bed.repository))[-1])
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    before = left(bed.repository)
    with pytest.raises(StillNeeded):
        run(bed.again())
    assert [name for name in left(bed.repository) if not name.startswith("probes/")] == before


def test_a_clock_that_has_jumped_ahead_deletes_nothing_more(bed: Bed) -> None:
    ahead = NOW + timedelta(days=3650)
    settings = RetentionSettings(count=1, window="25d")  # type: ignore[arg-type]
    assert plan(bed.again(), settings, promised=PROMISED, now=ahead).retained.expire
    assert expire(bed.again(), settings, promised=PROMISED, clock=At(ahead)).backups == []


def test_keys_go_when_nothing_names_them(bed: Bed) -> None:
    there = names(bed.repository, EPOCHS)
    run(bed.again())
    first = min(bed.store_folder / name for name in there)
    unused = first.with_name("20200101T000000Z-00000000.json")
    shutil.copy(first, unused)
    done = run(bed.again(), keys=True)
    assert done.keys == 1
    assert not unused.exists()
    assert names(bed.repository, EPOCHS) == there  # of today: they may seal more


def test_pieces_go_with_their_segments(bed: Bed) -> None:
    for number in (2, 7, 13):
        pieces.put_piece(bed.repository, Segment(1, number, SMALL), 0, b"x" * 8192)
    done = run(bed.again())
    assert (done.wal, done.pieces) == (6, 1)
    assert len(names(bed.repository, "wal/pieces/")) == 1


def test_a_manifest_is_deleted_too(bed: Bed) -> None:
    a = next(iter(catalog.ids(bed.repository)))
    run(bed.again())
    assert manifest_name(a, 0) not in names(bed.repository)
