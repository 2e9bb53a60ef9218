"""Which PostgreSQL is taken, and copies of it that another account may run."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dbsec.pg.binaries import Binaries, Source, newest


def _installed(root: Path, version: str = "17.10") -> Binaries:
    """Lay out an installation whose server only tells its version."""
    (root / "bin").mkdir(parents=True)
    (root / "share").mkdir()
    (root / "share" / "big").write_bytes(b"x" * 1_000_000)
    program = root / "bin" / "postgres"
    program.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
    program.chmod(0o700)
    return Binaries(root / "bin", version, Source.SYSTEM)


@pytest.mark.parametrize(
    ("folders", "wanted"),
    [
        (["/usr/lib/postgresql/9.6/bin", "/usr/lib/postgresql/15/bin"], "/usr/lib/postgresql/15/bin"),
        (["/usr/pgsql-9.6/bin", "/usr/pgsql-16/bin"], "/usr/pgsql-16/bin"),
        (["/c/installation/18.9.0/bin", "/c/installation/18.10.0/bin"], "/c/installation/18.10.0/bin"),
        (["/usr/local/pgsql/bin"], "/usr/local/pgsql/bin"),
        (["/opt/x86_64/9.6/bin", "/opt/15/bin"], "/opt/15/bin"),
    ],
)
def test_versions_are_compared_by_their_numbers(folders: list[str], wanted: str) -> None:
    assert newest(Path(f) for f in folders) == Path(wanted)
    assert newest(Path(f) for f in reversed(folders)) == Path(wanted)


def test_a_copy_is_whole_and_open_to_all(tmp_path: Path) -> None:
    copy = _installed(tmp_path / "a").copied_to(tmp_path / "programs" / "pg")
    assert copy.folder == tmp_path / "programs" / "pg" / "bin"
    assert copy.program("postgres").stat().st_mode & 0o777 == 0o755
    assert copy.runnable_by(None)


def test_many_may_copy_at_once(tmp_path: Path) -> None:
    source = _installed(tmp_path / "a")
    for number in range(100):
        (tmp_path / "a" / "share" / f"{number}").write_bytes(b"x")
    for attempt in range(5):
        folder = tmp_path / f"copy{attempt}"
        with ThreadPoolExecutor(8) as threads:
            copies = list(threads.map(lambda _, to=folder: source.copied_to(to), range(8)))
        assert len(set(copies)) == 1
        assert len(list((folder / "share").iterdir())) == 101
    assert not [p for p in tmp_path.iterdir() if p.name.endswith((".part", ".old"))]


def test_a_copy_of_another_build_is_replaced_and_of_the_same_kept(tmp_path: Path) -> None:
    source = _installed(tmp_path / "a")
    folder = tmp_path / "copy"
    source.copied_to(folder)
    (folder / "kept").touch()
    source.copied_to(folder)
    assert (folder / "kept").exists()
    os.utime(source.program("postgres"), (1, 1))  # a build of the same size
    source.copied_to(folder)
    assert not (folder / "kept").exists()
    _installed(tmp_path / "b", "17.9").copied_to(folder)
    assert "17.9" in (folder / "bin" / "postgres").read_text()
    _installed(tmp_path / "c", "17.11").copied_to(folder)
    assert "17.11" in (folder / "bin" / "postgres").read_text()


def test_what_a_killed_copy_left_is_no_hindrance(tmp_path: Path) -> None:
    for end in ("part", "old"):
        (tmp_path / f".copy.{end}" / "bin").mkdir(parents=True)
    assert _installed(tmp_path / "a").copied_to(tmp_path / "copy").runnable_by(None)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".copy.lock", "a", "copy"]
