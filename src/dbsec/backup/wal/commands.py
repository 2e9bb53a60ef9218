"""The texts of ``archive_command`` and ``restore_command``, and the client that they run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from dbsec import files, process
from dbsec.backup.wal.client import DONE, END
from dbsec.errors import ProgramError, ProgramMissing, UsageError
from dbsec.process import Account

CLIENT = "dbsec-wal-client.py"
_PYTHONS = (Path("/usr/bin/python3"), Path("/usr/local/bin/python3"), Path("/bin/python3"))
# whatever ends otherwise has not done it: a Python that does not start ends with 1, one with an empty file with 0
_ARCHIVED = f"case $? in {DONE}) exit 0;; *) exit 1;; esac"
_RESTORED = f"case $? in {DONE}) exit 0;; {END}) exit 1;; *) exit 255;; esac"


def install_client(folder: Path, *, owner: tuple[int, int] | None = None) -> Path:
    """Put the client into a folder that the server's account may enter, as one act, and return its path.

    The one in the installed package may lie where that account may not look.
    """
    target = folder / CLIENT
    raw = Path(__file__).with_name("client.py").read_bytes()
    if not target.exists() or target.read_bytes() != raw or target.stat().st_mode & 0o777 != 0o755:
        files.write_atomic(target, raw, mode=0o755, owner=owner)
    return target


def find_python(account: Account | None = None) -> Path:
    """Return a Python that an account may run: that of the virtual environment may be closed to it.

    Errors: ``ProgramMissing``.
    """
    for python in (*_PYTHONS, Path(sys.executable).resolve()):
        try:
            process.run([python, "-I", "-S", "-c", "import _socket"], cwd=Path("/"), account=account)
        except ProgramError:
            continue
        return python
    who = (account or Account.current()).name
    raise ProgramMissing(f"no python3 runs for the account '{who}'", hint="apt-get install python3-minimal")


def archive_command(socket: Path, *, client: Path, python: Path, peer: int | None = None) -> str:
    """Return the value of ``archive_command``; who writes it into a file or a statement quotes it as a literal.

    ``peer`` is the uid of the archiver where it is neither root's nor the server's own. Errors: ``UsageError``.
    """
    return f'{_words(python, "-I", "-S", client, *_options(peer), socket, "push")} "%p"; {_ARCHIVED}'


def restore_command(socket: Path, *, client: Path, python: Path, peer: int | None = None) -> str:
    """Return the value of ``restore_command``. Errors: ``UsageError``."""
    return f'{_words(python, "-I", "-S", client, *_options(peer), socket, "fetch")} "%f" "%p"; {_RESTORED}'


def slow_archive_command(dbsec: Path, config: Path) -> str:
    """Return an ``archive_command`` that needs no resident archiver, and starts anew for each file."""
    return f'{_words(dbsec, "backup", "wal", "push", "--proof", "--config", config)} "%p"; {_ARCHIVED}'


def slow_restore_command(dbsec: Path, config: Path) -> str:
    """Return a ``restore_command`` that needs no resident server."""
    return f'{_words(dbsec, "backup", "wal", "fetch", "--proof", "--config", config)} "%f" "%p"; {_RESTORED}'


def _options(peer: int | None) -> list[str]:
    return ["--proof", *([] if peer is None else [f"--peer={peer}"])]


def _words(*words: str | Path) -> str:
    """Quote words for the shell, and for PostgreSQL, which replaces what follows a percent sign."""
    for word in map(str, words):
        if not word.isprintable():
            raise UsageError(f"{word!r} cannot stand in a command of PostgreSQL")
    return shlex.join(map(str, words)).replace("%", "%%")


def literal(value: str) -> str:
    """Quote a value for postgresql.conf. Source: PostgreSQL, guc-file.l (GUC_scanstr): a backslash escapes."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
