"""A PostgreSQL that lives as long as one replay: started from programs on this machine, and deleted afterwards."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dbsec import files, process
from dbsec.errors import ProgramError
from dbsec.pg import Conninfo
from dbsec.pg.binaries import Binaries
from dbsec.pg.instance import Instance
from dbsec.process import Account, ProcessId
from dbsec.progress import Progress
from dbsec.secret import Secret

SUPERUSER = "postgres"
_PREFIX = "dbsec-trace-"
_NUMBERS = itertools.count()
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "autovacuum": "off",  # its locks are nobody's in the report
    "max_connections": "40",  # a statement is made to wait by up to 16 sessions
    "shared_buffers": "32MB",
    "timezone": "UTC",
    "lc_messages": "C",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where and as whom a server runs: ``account`` may not be root, and nothing listens on ``port``.

    ``programs`` keeps what is made once: a new cluster to copy, and copies of programs that the account may not run.
    """

    programs: Path
    account: Account
    port: int


@contextmanager
def server(binaries: Binaries, place: Place, *, progress: Progress) -> Iterator[Conninfo]:
    """Start a server of its own and give its superuser's way in; it is stopped and deleted at the end.

    What a killed run left is stopped and deleted first. Errors: ``ProgramError`` with the end of the server's log.
    """
    _sweep(binaries)
    if not binaries.runnable_by(place.account):
        binaries = binaries.copied_to(place.programs / f"postgresql-{binaries.version}")
    if not binaries.runnable_by(place.account):
        raise ProgramError(
            f"account '{place.account.name}' may not run '{binaries.program('postgres')}'",
            hint="set DBSEC_HOME to a folder that every account may enter",
        )
    folder = Path(tempfile.gettempdir()) / f"{_PREFIX}{_self().pid}-{_self().started}-{next(_NUMBERS)}"
    progress.step(f"starting PostgreSQL {binaries.version} in '{folder}'")
    instance = Instance(binaries, folder / "data", place.port, folder / "server.log", place.account)
    try:
        password = _copied(binaries, place, folder)
        instance.configure({**_SETTINGS, "port": str(place.port)})
        instance.start()
        yield Conninfo.local(place.port, user=SUPERUSER, dbname="postgres", password=password)
    finally:
        with process.undisturbed():
            instance.stop()
            shutil.rmtree(folder, ignore_errors=True)


def _self() -> ProcessId:
    return ProcessId.of(os.getpid()) or ProcessId(os.getpid(), 0)


def _copied(binaries: Binaries, place: Place, folder: Path) -> Secret:
    """Copy the new cluster that is kept, which takes a tenth of the time of initdb; returns its password."""
    kept = place.programs / f"cluster-{binaries.version}-{place.account.name}"
    files.make_folder(place.programs, mode=0o755)
    with files.locked(place.programs / f".{kept.name}.lock"):
        if not (kept / "password").exists():
            shutil.rmtree(kept, ignore_errors=True)
            _make(binaries, place, kept)
        shutil.copytree(kept, folder, ignore=shutil.ignore_patterns("password"))
    folder.chmod(0o755)
    _hand_over(folder, place.account)
    return Secret((kept / "password").read_text())


def _make(binaries: Binaries, place: Place, kept: Path) -> None:
    """Run initdb where the account may enter, and keep the result where only we may."""
    password = Secret(secrets.token_urlsafe(24))
    with tempfile.TemporaryDirectory(prefix="dbsec-initdb-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        folder.chmod(0o755)
        _hand_over(folder, place.account)
        instance = Instance(binaries, folder / "data", place.port, folder / "server.log", place.account)
        instance.init(superuser=SUPERUSER, password=password, durable=False)
        files.make_folder(kept, mode=0o700)
        shutil.copytree(folder / "data", kept / "data")
    files.write_atomic(kept / "password", password.reveal())


def _hand_over(folder: Path, account: Account) -> None:
    if not account.is_current:
        process.run(["chown", "-R", f"{account.uid}:{account.gid}", folder], cwd=Path("/"))


def _sweep(binaries: Binaries) -> None:
    """Stop and delete what a killed run of ours left: the folder's name tells whose it was."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*-*"):
        numbers = folder.name.removeprefix(_PREFIX).split("-")
        if folder.is_symlink() or len(numbers) != 3 or not all(part.isdigit() for part in numbers):
            continue
        if not ProcessId(int(numbers[0]), int(numbers[1])).alive and (who := _owner(folder)) is not None:
            Instance(binaries, folder / "data", 0, folder / "server.log", who).stop()
            shutil.rmtree(folder, ignore_errors=True)


def _owner(folder: Path) -> Account | None:
    """Tell whose server a folder holds, None where it is not ours to stop."""
    try:
        status = (folder / "data").lstat()
    except OSError:
        return None
    ours = os.geteuid() in (0, status.st_uid)
    return Account(f"uid:{status.st_uid}", status.st_uid, status.st_gid) if ours else None
