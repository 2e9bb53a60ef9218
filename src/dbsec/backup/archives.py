"""An archive that can be attacked: a copy of base backup and WAL, damaged, restored, and asked what is left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psycopg

from dbsec import files, process, retry
from dbsec.errors import ConnectError, DbsecError, ProgramError
from dbsec.pg import Conninfo, connect
from dbsec.pg.instance import Instance

RECOVERY_S = 90.0
OURS = "dbsec:"  # what our client writes into a server's log begins with it


class Copy(Protocol):
    """A copy of an archive on a disk of ours: what an attacker has, and changes."""

    def place(self, segment: str) -> Path:
        """Return the file that holds a WAL segment."""

    def everything(self) -> Iterator[Path]:
        """Yield every file of base backup and WAL."""

    def restored(self, folder: Path) -> AbstractContextManager[Instance]:
        """Restore to the end of the archive, by the way that this archive has; the server is not started yet.

        Errors: ``DbsecError`` where that way refuses the copy.
        """


class Archive(Protocol):
    """Where one cluster's backups go today."""

    @property
    def name(self) -> str:
        """What it is called in the evidence."""

    def has(self, segment: str) -> bool:
        """Tell whether a WAL segment has arrived."""

    def copied(self, folder: Path) -> Copy:
        """Copy base backup and WAL into an empty folder."""

    def stolen(self, folder: Path) -> Copy:
        """Copy them as a thief does, who has what lies there and no key of ours."""


@dataclass(frozen=True, slots=True)
class PlainArchive:
    """A folder of WAL and one of a plain base backup, filled by ``cp`` and ``pg_basebackup``.

    ``instance`` makes the server of a restored folder.
    """

    base: Path
    wal: Path
    instance: Callable[[Path], Instance]
    name: str = "the plain archive"

    def has(self, segment: str) -> bool:
        return (self.wal / segment).exists()

    def copied(self, folder: Path) -> PlainCopy:
        shutil.copytree(self.wal, folder / "wal")
        return PlainCopy(self.base, folder / "wal", self.instance)

    def stolen(self, folder: Path) -> PlainCopy:
        return self.copied(folder)


@dataclass(frozen=True, slots=True)
class PlainCopy:
    """Its base backup is only read."""

    base: Path
    wal: Path
    instance: Callable[[Path], Instance]

    def place(self, segment: str) -> Path:
        return self.wal / segment

    def everything(self) -> Iterator[Path]:
        return (path for root in (self.base, self.wal) for path in root.rglob("*") if path.is_file())

    @contextmanager
    def restored(self, folder: Path) -> Iterator[Instance]:
        """Do as the manual's first example does: copy, name ``cp`` as restore_command, start."""
        instance = self.instance(folder)
        shutil.copytree(self.base, folder, symlinks=True)
        (folder / "postmaster.pid").unlink(missing_ok=True)
        (folder / "pg_wal").mkdir(exist_ok=True)
        folder.chmod(0o700)
        auto = folder / "postgresql.auto.conf"
        command = f'cp "{self.wal}/%f" "%p"'
        told = {"restore_command": command, "archive_mode": "off", "port": str(instance.port)}
        lines = "".join(f"{name} = '{value}'\n" for name, value in told.items())
        files.write_atomic(auto, (auto.read_text() if auto.exists() else "") + lines)
        (folder / "recovery.signal").touch(mode=0o600)
        _give((folder, self.wal.parent), self.base.stat())
        yield instance


def _give(roots: Iterable[Path], owner: os.stat_result) -> None:
    """Let the server's account have what we copied, where we may give it."""
    if os.geteuid() == 0:
        for path in (below for root in roots for below in (root, *root.rglob("*"))):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


@dataclass(frozen=True, slots=True)
class Opened:
    """The server opened for writing; ``rows`` is what it then had."""

    rows: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was opened; ``why`` is what the server or the restore said, "" where neither did."""

    why: str


def outcome(
    copy: Copy, folder: Path, login: Callable[[Instance], Conninfo], count: Callable[[Conninfo], int]
) -> Opened | Refused:
    """Restore a copy, start it, wait until it opens or refuses, and take it away again."""
    try:
        with copy.restored(folder) as instance:
            try:
                return _started(instance, login(instance), count)
            finally:
                instance.stop()
    except ProgramError as exc:
        return Refused(_fatal(exc.tail))
    except DbsecError as exc:
        return Refused(exc.message)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _started(instance: Instance, login: Conninfo, count: Callable[[Conninfo], int]) -> Opened | Refused:
    instance.start(timeout_s=int(RECOVERY_S))
    opened = opens(instance, login)
    if not opened:
        return Refused(_fatal(process.last_lines(instance.log, limit=20_000)))
    return Opened(count(login))


def opens(instance: Instance, login: Conninfo) -> bool:
    """Wait until recovery has ended; False where the server ended instead. Errors: ``GaveUp``."""
    ended: list[bool] = []

    def decided() -> bool:
        if instance.running() is None:
            ended.append(False)
        elif _is_open(login):
            ended.append(True)
        return bool(ended)

    retry.wait_until(decided, within_s=RECOVERY_S, what="recovery to end", every_s=0.05)
    return ended[0]


def _is_open(login: Conninfo) -> bool:
    try:
        with connect(login, timeout_s=2) as session:
            row = session.execute("SELECT pg_is_in_recovery()").fetchone()
            return row == (False,)
    except (ConnectError, psycopg.OperationalError):
        return False


def _fatal(log: str) -> str:
    """Return why a server has ended, what was said for us before its FATAL too; "" where it does not tell."""
    lines = log.splitlines()
    last = max((number for number, line in enumerate(lines) if "FATAL:" in line), default=None)
    if last is None:
        return ""
    ours = [line for line in lines[:last] if line.startswith(OURS)]
    said = lines[last].partition("FATAL:")[2].strip()
    return f"{ours[-1].removeprefix(OURS).strip()}; then: {said}" if ours else said
