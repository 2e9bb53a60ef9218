"""The folder of one clone, and what a drill that was killed has left: a server with all the rows runs on there."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dbsec.errors import UsageError
from dbsec.pg.binaries import Binaries
from dbsec.pg.instance import Instance
from dbsec.process import Account

_PREFIX: Final = "drill-"
_MOST_PATH: Final = 107  # sockaddr_un


@contextmanager
def clone_home(scratch: Path, account: Account, binaries: Binaries) -> Iterator[Path]:
    """Make a private folder of the account, with ``s`` for sockets; it goes in the end, log and rows alike.

    Clones that killed drills of the account have left there are stopped and deleted first. Locks: flock(2) on the
    folder itself, which the kernel frees when its drill dies. Errors: ``UsageError``.
    """
    try:
        for left in scratch.glob(f"{_PREFIX}*"):
            _sweep(left, account, binaries)
        home = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=scratch))
    except OSError as exc:
        raise UsageError(f"cannot make a folder in '{scratch}': {exc.strerror}", hint="--scratch DIR") from exc
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if len(os.fsencode(home / "s" / ".s.PGSQL.65535")) > _MOST_PATH:
            raise UsageError(f"'{scratch}' is too long for a socket in it", hint="--scratch with a shorter path")
        (home / "s").mkdir(mode=0o700)
        if not account.is_current:
            for folder in (home / "s", home):
                os.chown(folder, account.uid, account.gid)
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
        os.close(fd)


def _sweep(left: Path, account: Account, binaries: Binaries) -> None:
    try:
        fd = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # another account's, or gone
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_uid == account.uid:
            Instance(binaries, left / "data", 0, left / "server.log", account).stop()
            shutil.rmtree(left, ignore_errors=True)
    except BlockingIOError:  # a drill that runs now
        return
    finally:
        os.close(fd)
