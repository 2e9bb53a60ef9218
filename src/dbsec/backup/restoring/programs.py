"""PostgreSQL's own programs over restored folders: pg_verifybackup and pg_combinebackup."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from dbsec import process
from dbsec.backup.errors import BackupError
from dbsec.errors import ProgramError, ProgramMissing
from dbsec.pg.binaries import Binaries, in_folder
from dbsec.process import Account

MANIFEST: Final = "backup_manifest"
_PLACES: Final = ("/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/opt/homebrew/opt/postgresql@{}/bin")
_MOST_S: Final = 24 * 3600


class NotVerified(BackupError):
    """A restored folder that is not what its manifest says."""

    exit_code = 1


def find_programs(version: str, folder: Path | None = None) -> Binaries | None:
    """Return PostgreSQL's programs of the major that made a backup: of ``folder``, or where packages put them.

    Errors: ``ProgramMissing`` for a folder without them, or with those of another major.
    """
    if folder is not None:
        found = in_folder(folder.absolute())
        check_major(found, version)
        return found
    major = version.partition(".")[0]
    places = [Path(place.format(major)) for place in _PLACES]
    if there := shutil.which("postgres"):
        places.append(Path(there).resolve().parent)
    for place in places:
        with suppress(ProgramError):
            if (found := in_folder(place)).major == int(major):
                return found
    return None


def check_major(binaries: Binaries, version: str) -> None:
    """Refuse programs of another major. Errors: ``ProgramMissing``."""
    if binaries.major != int(version.partition(".")[0]):
        raise ProgramMissing(
            f"the backup is of PostgreSQL {version}, and the programs in '{binaries.folder}' are {binaries.version}",
            hint=f"--bindir with the programs of {version.partition('.')[0]}",
        )


def verify(data: Path, binaries: Binaries | None, *, account: Account | None = None) -> str:
    """Run pg_verifybackup over a folder; returns "" or why it was not run. Errors: ``NotVerified``."""
    if binaries is None or not binaries.program("pg_verifybackup").exists():
        return "pg_verifybackup is not there"
    if not (data / MANIFEST).exists():
        return "the backup has no manifest"
    argv: list[str | Path] = [binaries.program("pg_verifybackup"), "--no-parse-wal", "--quiet", data]
    try:
        process.run(argv, cwd=data, env=binaries.env, account=account, timeout_s=_MOST_S)
    except ProgramError as exc:
        if exc.code == 1:
            raise NotVerified(
                f"'{data}' is not what its manifest says: {exc.tail}",
                hint="dbsec backup verify; --backup of an older one",
            ) from exc
        raise
    return ""


def combine(
    links: Sequence[Path],
    result: Path,
    spaces: Mapping[Path, Path],
    binaries: Binaries,
    *,
    account: Account | None = None,
) -> None:
    """Make one full backup of a chain, the full one first; ``spaces`` are those of the last link -> their new places.

    Errors: ``ProgramError``, ``ProgramMissing``.
    """
    moved = [word for old, new in spaces.items() for word in ("--tablespace-mapping", f"{_plain(old)}={_plain(new)}")]
    argv: list[str | Path] = [binaries.program("pg_combinebackup"), *moved, "--output", result, *links]
    process.run(argv, cwd=result.parent, env=binaries.env, account=account, timeout_s=_MOST_S)


def _plain(path: Path) -> str:
    return str(path).replace("=", "\\=")
