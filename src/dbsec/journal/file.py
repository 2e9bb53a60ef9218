"""Records as lines of a file, each synced before the next act."""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from dbsec import canonical, files
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import JournalError, NewerFormat
from dbsec.journal.steps import Journal, Observer, Record

MAGIC = "dbsec-journal"
FORMAT = 1


class FileStore:
    """Records as lines of a file, each synced before the next act.

    Shape: canonical JSON and a newline; the first line is ``{"format", "magic"}``, each other one a record with ``n``
    (1 is the first) and ``crc`` (CRC-32 of the line without it, 8 hex digits). A last line without its newline is what
    kill -9 left, and is dropped. Locks: flock on ``.NAME.lock`` beside it. Errors: ``JournalError``, ``NewerFormat``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: list[Record] = []
        self._open = ExitStack()

    def __enter__(self) -> FileStore:
        with ExitStack() as opening:
            try:
                self._open_alone(opening)
            except OSError as exc:
                raise JournalError(f"cannot open '{self._path}': {exc.strerror}") from exc
            self._open = opening.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._open.close()

    def read(self) -> list[Record]:
        return list(self._records)

    def append(self, record: Record) -> None:
        if self._stream.closed:
            raise JournalError(f"'{self._path}' is closed", hint="open it again")
        line = {**record, "n": len(self._records) + 1}
        data = canonical.json_bytes({**line, "crc": _crc(line)}) + b"\n"
        try:
            if self._stream.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._stream.fileno())
        except OSError as exc:
            # Nobody knows what reached the disk: only a new open, which reads it, can go on.
            self._open.close()
            raise JournalError(f"cannot write '{self._path}': {exc.strerror}", hint="df -h; then run it again") from exc
        self._records.append(record)

    def _open_alone(self, opening: ExitStack) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self._path.with_name(f".{self._path.name}.lock")
        if not opening.enter_context(files.locked(lock, blocking=False)):
            raise JournalError(f"another process runs the job of '{self._path}'", hint="wait for it to end")
        if not self._path.exists():
            files.write_atomic(self._path, _HEADER)
        self._records = self._load()
        self._stream = opening.enter_context(self._path.open("ab", buffering=0))

    def _load(self) -> list[Record]:
        raw = self._path.read_bytes()
        header, *lines, torn = raw.split(b"\n") if b"\n" in raw else (b"", b"")
        self._check_header(header)
        records = [self._parsed(line, number) for number, line in enumerate(lines, 1)]
        if torn:
            os.truncate(self._path, len(raw) - len(torn))
        return records

    def _check_header(self, line: bytes) -> None:
        header = _object(line)
        found = header.get("format")
        if header.get("magic") != MAGIC or not isinstance(found, int) or found < 1:
            raise JournalError(f"'{self._path}' is not a journal of dbsec", hint="name another file")
        if found > FORMAT:
            raise NewerFormat(f"'{self._path}'", found=found, known=FORMAT)

    def _parsed(self, line: bytes, number: int) -> Record:
        record = _object(line)
        if record.pop("crc", None) != _crc(record) or record.pop("n", None) != number:
            raise JournalError(
                f"'{self._path}' is damaged: record {number} is not what was written",
                hint=f"see what was done before it, then: mv {self._path} {self._path}.damaged",
            )
        return record


@contextmanager
def open_file(path: Path, *, clock: Clock = SYSTEM, observer: Observer | None = None) -> Iterator[Journal]:
    """Open the journal in a file, which is made where it is absent. Errors and locks: those of ``FileStore``."""
    with FileStore(path) as store:
        yield Journal(store, clock=clock, observer=observer)


_HEADER = canonical.json_bytes({"magic": MAGIC, "format": FORMAT}) + b"\n"


def _crc(line: Record) -> str:
    return f"{zlib.crc32(canonical.json_bytes(dict(line))):08x}"


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
