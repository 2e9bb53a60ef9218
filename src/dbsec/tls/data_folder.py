"""The files of a server that is configured from outside: replaced whole, with the owner and mode that they had."""

from __future__ import annotations

import stat
from pathlib import Path

from dbsec import files
from dbsec.errors import UsageError


class DataFolder:
    """A server's data folder on this machine. A name may be an absolute path: hba_file can lie elsewhere."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None where there is none. Errors: ``UsageError`` for a link or an unreadable file."""
        path = self.path / name
        if path.is_symlink():
            raise UsageError(
                f"'{path}' is a link, and would be replaced by a file",
                hint=f"cp --remove-destination {path.resolve()} {path}",
            )
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise UsageError(
                f"cannot read '{path}': {exc.strerror}", hint="run this on the server, as its account"
            ) from exc

    def write(self, name: str, data: bytes, *, mode: int | None = None) -> None:
        """Replace a file atomically; a new one is private (0600) and belongs to the folder's owner."""
        path = self.path / name
        known = path if path.exists() else self.path
        status = known.stat()
        kept = stat.S_IMODE(status.st_mode) if known is path else 0o600
        files.write_atomic(path, data, mode=mode or kept, owner=(status.st_uid, status.st_gid))

    def restore(self, name: str, data: bytes | None) -> None:
        """Put back what ``read`` had returned."""
        if data is not None:
            self.write(name, data)
            return
        (self.path / name).unlink(missing_ok=True)
