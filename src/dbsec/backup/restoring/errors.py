"""What a restore says of the disk that it writes to."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dbsec.backup.errors import BackupError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RestoreFailed(BackupError):
    """A folder that could not be filled; it does not start, and ``--again`` empties it."""


@contextmanager
def trouble(path: Path) -> Iterator[None]:
    """Say of an ``OSError`` which path it was, and what to do."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise RestoreFailed(
                f"no room for '{path}': {exc.strerror}; what is there does not start",
                hint=f"df -h {path.parent}; make room, then the same command with --again",
            ) from exc
        raise RestoreFailed(f"cannot write '{path}': {exc.strerror}", hint=f"ls -ld {path.parent}") from exc
