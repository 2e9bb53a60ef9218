"""A record, on our own disk, of the objects that were verified: what has not changed is not read again so soon.

Shape: a line of canonical JSON that says whose it is, then a line an object: name, size, tag, moment, content HMAC,
epoch. It holds no secret and is believed: whoever writes the store must not be able to write it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

from dbsec import canonical, files
from dbsec.backup.sealed import Header
from dbsec.errors import ConfigError, NewerFormat, UsageError
from dbsec.store import ObjectInfo

FORMAT: Final = 1
MAGIC: Final = "dbsec-verified"
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class _Seen:
    size: int
    tag: str
    at: datetime
    content: str
    epoch: str


class Ledger:
    """What was verified of one repository; use it in ``opened``."""

    def __init__(self, stream: BinaryIO, seen: dict[str, _Seen], again_after: timedelta) -> None:
        self._stream = stream
        self._seen = seen
        self._again_after = again_after
        self._unsynced = 0
        self._listed: set[str] = set()

    def fresh(self, entry: ObjectInfo, now: datetime) -> str:
        """Return the epoch of an object that need not be read: the same size and tag, verified a short time ago."""
        self._listed.add(entry.name)
        seen = self._seen.get(entry.name)
        if seen is None or not entry.tag or (seen.size, seen.tag) != (entry.size, entry.tag):
            return ""
        return seen.epoch if timedelta() <= now - seen.at < self._again_after else ""

    def add(self, entry: ObjectInfo, header: Header, now: datetime) -> None:
        """Record an object that was read and proven; durable from time to time, and at the end."""
        seen = _Seen(entry.size, entry.tag, now, header.content, header.epoch)
        self._seen[entry.name] = seen
        self._stream.write(_line(entry.name, seen))
        self._unsynced += 1
        if self._unsynced >= _BATCH:
            self.sync()

    def drop(self, name: str) -> None:
        """Forget an object that did not open: the next run reads it whatever its age."""
        self._seen.pop(name, None)

    def sync(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._unsynced = 0

    def kept(self) -> Iterator[tuple[str, _Seen]]:
        """Yield what is still in the store."""
        return ((name, self._seen[name]) for name in sorted(self._seen) if name in self._listed)


@contextmanager
def opened(path: Path, *, system: int, store: str, again_after: timedelta) -> Iterator[Ledger]:
    """Read a record, or begin one, and write it anew at the end of a run without an error.

    Killed in between it holds what was verified so far. A torn last line is left out; a file that is damaged otherwise
    is none. Locks: ``PATH.lock``. Errors: ``UsageError`` where it is in use; ``ConfigError`` where it is another
    repository's; ``NewerFormat``.
    """
    head = canonical.json_bytes({"magic": MAGIC, "format": FORMAT, "system": str(system), "store": store}) + b"\n"
    with files.locked(path.with_name(f"{path.name}.lock"), blocking=False) as ours:
        if not ours:
            raise UsageError(f"'{path}' is in use by another verify", hint="wait for it, or name another --state")
        seen = _read(path, head)
        if not path.exists():
            files.write_atomic(path, head)
        with path.open("ab") as stream:
            if stream.tell() and not _ends_in_a_line(path):
                stream.write(b"\n")
            ledger = Ledger(stream, seen, again_after)
            yield ledger
            ledger.sync()
        with files.replacing(path) as whole:
            whole.write(head)
            for name, one in ledger.kept():
                whole.write(_line(name, one))


def _line(name: str, seen: _Seen) -> bytes:
    return canonical.json_bytes([name, seen.size, seen.tag, seen.at.isoformat(), seen.content, seen.epoch]) + b"\n"


def _read(path: Path, head: bytes) -> dict[str, _Seen]:
    seen: dict[str, _Seen] = {}
    try:
        with path.open("rb") as stream:
            _check_head(path, stream.readline(), head)
            for line in stream:
                try:
                    name, size, tag, at, content, epoch = json.loads(line)
                    moment = datetime.fromisoformat(at).astimezone(UTC)
                    seen[str(name)] = _Seen(int(size), str(tag), moment, str(content), str(epoch))
                except (ValueError, TypeError):
                    continue  # torn by a kill: that object is read again
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise UsageError(f"cannot read '{path}': {exc.strerror}") from exc
    return seen


def _check_head(path: Path, found: bytes, head: bytes) -> None:
    if found == head:
        return
    try:
        told = json.loads(found)
        if told["magic"] == MAGIC and told["format"] > FORMAT:
            raise NewerFormat(f"'{path}'", found=told["format"], known=FORMAT)
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"'{path}' is no record of verified objects", hint="name another file with --state") from None
    raise ConfigError(f"'{path}' is the record of another repository", hint="name another file with --state")


def _ends_in_a_line(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
