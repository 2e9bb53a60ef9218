"""A folder as a store: what a killed or failing writer leaves is no object; a folder that is away is not empty."""

from __future__ import annotations

import os
import resource
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.forks import in_a_child

from dbsec.store import ObjectExists, ObjectMissing, StoreFull, StoreUnavailable
from dbsec.store import file as file_store
from dbsec.store.file import FileStore


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


def killed_before(call: str, monkeypatch: pytest.MonkeyPatch, store: FileStore) -> None:
    """Put in a child that is killed just before a call of the system."""

    def die(*_args: object, **_told: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(file_store.os, call, die)
        assert in_a_child(lambda: store.put("a/b", b"x" * 1000)) == -signal.SIGKILL


@pytest.mark.parametrize("call", ["write", "fsync", "link"])
def test_a_writer_that_is_killed_leaves_no_object(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    (tmp_path / "a").mkdir()
    killed_before(call, monkeypatch, store)
    assert list(store.list()) == []
    with pytest.raises(ObjectMissing):
        store.get("a/b")
    (part,) = (tmp_path / "a").iterdir()
    now = datetime.now(UTC)
    assert store.sweep(now - timedelta(hours=1)) == 0
    assert store.sweep(now + timedelta(seconds=9)) == 1
    assert not part.exists()
    store.put("a/b", b"2")
    assert store.get("a/b") == b"2"


def test_a_writer_that_is_killed_after_the_name_has_put_the_object(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_before("unlink", monkeypatch, store)
    assert store.get("a/b") == b"x" * 1000
    with pytest.raises(ObjectExists):
        store.put("a/b", b"x" * 1000)
    assert [entry.name for entry in store.list()] == ["a/b"]


def test_every_name_and_content_is_synced_before_it_is_acknowledged(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file before it has a name, the folder after; each folder that was made, in the one above."""
    done: list[str] = []
    real_sync, real_link = os.fsync, os.link

    def sync(fd: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{fd}').readlink().relative_to(tmp_path)}")
        real_sync(fd)

    def link(*args: object, **told: object) -> None:
        done.append("link")
        real_link(*args, **told)  # type: ignore[arg-type]

    monkeypatch.setattr(file_store.os, "fsync", sync)
    monkeypatch.setattr(file_store.os, "link", link)
    store.put("a/b/c", b"1")
    part = done[2]
    assert part.endswith(".part")
    assert done == ["sync .", "sync a", part, "link", "sync a/b"]
    done.clear()
    with pytest.raises(ObjectExists):
        store.put("a/b/c", b"1")
    assert done[-1] == "sync a/b"  # whoever made it may have been killed before


def test_a_disk_without_room_leaves_nothing(store: FileStore) -> None:
    def put() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(StoreFull):
            store.put("a/b", bytes(100_000))

    assert in_a_child(put) == 0
    assert list(store.list()) == []
    assert store.sweep(datetime.now(UTC) + timedelta(seconds=9)) == 0


def test_a_folder_that_is_away_is_never_made(tmp_path: Path) -> None:
    """It may be a disk that is not mounted: what was put there would be below the mount point, and lost."""
    away = FileStore(tmp_path / "mnt" / "backups")
    for act in (
        lambda: away.put("a", b""),
        lambda: away.get("a"),
        lambda: away.head("a"),
        lambda: away.delete("a"),
        lambda: list(away.list()),
        lambda: list(away.list("a/")),
    ):
        with pytest.raises(StoreUnavailable):
            act()
    assert not (tmp_path / "mnt").exists()


def test_what_a_disk_keeps_for_itself_is_no_object(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir(mode=0o700)
    store.put("a", b"")
    assert [entry.name for entry in store.list()] == ["a"]
