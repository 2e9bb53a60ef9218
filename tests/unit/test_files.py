"""A file is whole or as it was, private from its first byte, and its lock dies with its holder."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
from pathlib import Path

from dbsec import files


def test_a_write_replaces_and_sets_the_mode(tmp_path):
    path = tmp_path / "key"
    files.write_atomic(path, "old", mode=0o644)
    files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_the_umask_does_not_change_the_mode(tmp_path):
    before = os.umask(0o077)
    try:
        files.write_atomic(tmp_path / "ca.crt", "x", mode=0o644)
    finally:
        os.umask(before)
    assert (tmp_path / "ca.crt").stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    """RLIMIT_FSIZE stands in for a full disk."""
    path = tmp_path / "state"
    path.write_text("old")
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
            files.write_atomic(path, "n" * 1000)
        except OSError as exc:
            os._exit(exc.errno)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.EFBIG
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("state", "old")]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_text("theirs")
    (tmp_path / "link").symlink_to(target)
    files.write_atomic(tmp_path / "link", "ours")
    assert target.read_text() == "theirs"
    assert not (tmp_path / "link").is_symlink()


def test_a_reader_never_sees_a_part(tmp_path):
    """A second process reads all the while: each time one whole content."""
    path = tmp_path / "state"
    files.write_atomic(path, b"0" * 100_000)
    reader = os.fork()
    if reader == 0:
        whole = all(len(set(path.read_bytes())) == 1 for _ in range(300))
        os._exit(0 if whole else 1)
    for n in range(30):
        files.write_atomic(path, str(n % 10).encode() * 100_000)
    assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0


def test_a_lock_excludes_and_dies_with_its_holder(tmp_path):
    path = tmp_path / "lock"
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with files.locked(path):
            os.write(told, b"x")
            signal.pause()
    os.read(ready, 1)
    with files.locked(path, blocking=False) as held:
        assert not held
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with files.locked(path, blocking=False) as held:
        assert held
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_pipe_or_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write_atomic(tmp_path / "pipe", "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    before = Path("/dev/null").lstat()
    files.write_atomic(Path("/dev/null"), "gone")
    after = Path("/dev/null").lstat()
    assert stat.S_ISCHR(after.st_mode)
    assert (before.st_ino, before.st_rdev) == (after.st_ino, after.st_rdev)
