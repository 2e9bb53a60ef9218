"""How anything resumes: each step is recorded as begun and as done, so a job that was killed goes on where it stopped.

A step may be run again when the kill came between its effect and its record; ``Step.interrupted`` tells it so.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from dbsec import canonical, files
from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.errors import DbsecError, JournalError, NewerFormat

MAGIC = "dbsec-journal"
FORMAT = 1
Record = Mapping[str, Any]


class Edge(StrEnum):
    """Where a step can die: begun is recorded; the effect is there, unrecorded; done is recorded."""

    BEFORE = "before"
    AFTER_EFFECT = "after-effect"
    AFTER_RECORD = "after-record"


Observer = Callable[[str, Edge], None]


class Store(Protocol):
    """Where records lie. Its opener holds it alone until it is closed."""

    def read(self) -> list[Record]:
        """Return every record, oldest first."""

    def append(self, record: Record) -> None:
        """Add a record; it is durable when this returns."""


@dataclass(slots=True)
class Step:
    """One step while it runs. ``result`` is a JSON value: set it, or read what an earlier run recorded.

    ``interrupted``: an earlier run began it and recorded no end, so its effect may be there already.
    """

    name: str
    done: bool
    interrupted: bool
    result: Any = None


class Journal:
    """The steps of one job over a store. ``observer`` is called at each edge, so that a test can die exactly there."""

    def __init__(self, store: Store, *, clock: Clock = SYSTEM, observer: Observer | None = None) -> None:
        self._store = store
        self._clock = clock
        self._observer = observer
        self._last: dict[str, Record] = {}
        self._facts: dict[str, Any] = {}
        for record in store.read():
            self._remember(record)

    @contextmanager
    def step(self, name: str, **facts: Any) -> Iterator[Step]:
        """Run the block as a step; it must do nothing where ``step.done``.

        ``facts`` are what the step depends on, as JSON values without secrets: a run that resumes must give the same.
        Errors: ``JournalError`` for other facts; what the block raises, after it was recorded as failed.
        """
        known = canonical.as_read(facts)
        last = self._last.get(name)
        if last is not None and self._facts[name] != known:
            raise JournalError(
                f"step '{name}' was begun for {_shown(self._facts[name])}, not for {_shown(known)}",
                hint="finish that job first, or give this one a journal of its own",
            )
        if last is not None and last["event"] == "done":
            yield Step(name, done=True, interrupted=False, result=last["result"])
            return
        step = Step(name, done=False, interrupted=last is not None and last["event"] == "begun")
        self._record("begun", name, facts=known)
        self._observe(name, Edge.BEFORE)
        try:
            yield step
        except BaseException as exc:
            # The text of other exceptions is not ours, and may quote a value.
            self._record("failed", name, error=str(exc) if isinstance(exc, DbsecError) else type(exc).__name__)
            raise
        self._observe(name, Edge.AFTER_EFFECT)
        step.result = canonical.as_read(step.result)
        self._record("done", name, result=step.result)
        step.done = True
        self._observe(name, Edge.AFTER_RECORD)

    def run(self, name: str, act: Callable[[], Any], **facts: Any) -> Any:
        """Call ``act`` once and return its result as JSON reads it; later runs return what was recorded."""
        with self.step(name, **facts) as step:
            if not step.done:
                step.result = act()
        return step.result

    def done(self) -> list[str]:
        """Name the steps that are recorded as done, in the order in which they ended."""
        return [name for name, last in self._last.items() if last["event"] == "done"]

    def _observe(self, step: str, edge: Edge) -> None:
        if self._observer is not None:
            self._observer(step, edge)

    def _record(self, event: str, step: str, **body: Any) -> None:
        record = {"event": event, "step": step, "at": rfc3339(self._clock.now()), **body}
        self._store.append(record)
        self._remember(record)

    def _remember(self, record: Record) -> None:
        self._last.pop(record["step"], None)
        self._last[record["step"]] = record
        if record["event"] == "begun":
            self._facts[record["step"]] = record["facts"]


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


def _shown(facts: Any) -> str:
    return canonical.json_bytes(facts).decode()
