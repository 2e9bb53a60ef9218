"""Looks for secrets where none may be: in files, in file names, in arguments and in environments of processes.

A secret is looked for as it is and in the forms that programs turn it into; compressed or encrypted bytes hide it. What
cannot be read is told, never passed over: a scan that saw nothing proves nothing.
"""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from urllib.parse import quote, quote_plus

from dbsec.testing import proc

_CHUNK = 4 << 20
_PERCENT = re.compile("%[0-9A-F]{2}")
_SHORTEST = 8  # below this many bytes a hit may be chance


@dataclass(frozen=True, slots=True, order=True)
class Hit:
    """A secret that was found: its name, the form it had, and the place. The value itself is not repeated."""

    secret: str
    form: str
    place: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What was found, how much was looked at, and what could not be read."""

    hits: frozenset[Hit] = frozenset()
    looked_at: int = 0
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Needle:
    secret: str
    form: str
    text: bytes = field(repr=False)


class Canaries:
    """The secrets by name. Errors: ``ValueError`` for one that is shorter than 8 bytes."""

    def __init__(self, secrets: Mapping[str, bytes | str]) -> None:
        known: dict[bytes, _Needle] = {}
        for name, value in secrets.items():
            raw = value.encode() if isinstance(value, str) else value
            if len(raw) < _SHORTEST:
                raise ValueError(f"canary '{name}' has fewer than {_SHORTEST} bytes: a hit may be chance")
            for form, text in _forms(raw):
                known.setdefault(text, _Needle(name, form, text))
        self._needles = tuple(known.values())
        self._overlap = max((len(n.text) for n in self._needles), default=1) - 1

    def in_bytes(self, data: bytes, place: str) -> Iterator[Hit]:
        """Yield each secret and form that ``data`` holds."""
        for needle in self._needles:
            if needle.text in data:
                yield Hit(needle.secret, needle.form, place)

    def in_files(self, *roots: Path, skip: Iterable[Path] = ()) -> Scan:
        """Scan regular files and names below folders, or single files; links and other devices are not followed."""
        hits: set[Hit] = set()
        unread: list[str] = []
        looked_at = 0
        for path in _walk(roots, {p.absolute() for p in skip}, unread):
            hits.update(self.in_bytes(os.fsencode(path), f"name of {path}"))
            try:
                hits.update(self._in_file(path))
                looked_at += 1
            except FileNotFoundError:
                continue  # a live server deletes files while they are listed
            except OSError as exc:
                unread.append(f"{path}: {exc.strerror}")
        return Scan(frozenset(hits), looked_at, tuple(unread))

    def in_processes(self, *pids: int) -> Scan:
        """Scan arguments and environment of each process and of all its descendants."""
        hits: set[Hit] = set()
        unread: list[str] = []
        looked_at = 0
        for pid in proc.tree(*pids):
            for part in ("cmdline", "environ"):
                try:
                    data = Path(f"/proc/{pid}/{part}").read_bytes()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                except OSError as exc:
                    unread.append(f"{part} of process {pid}: {exc.strerror}")
                    continue
                looked_at += 1
                hits.update(self.in_bytes(data, f"{part} of process {pid} ({proc.name(pid)})"))
        return Scan(frozenset(hits), looked_at, tuple(unread))

    def _in_file(self, path: Path) -> set[Hit]:
        hits: set[Hit] = set()
        with path.open("rb", buffering=0) as stream:
            kept = b""
            while chunk := stream.read(_CHUNK):
                window = kept + chunk
                hits.update(self.in_bytes(window, str(path)))
                kept = window[-self._overlap :] if self._overlap else b""
        return hits


class Watch:
    """Scans the processes below ``pids`` again and again while the block runs; what lived for an instant may escape."""

    def __init__(self, canaries: Canaries, *pids: int, every_s: float = 0.05) -> None:
        self._canaries = canaries
        self._pids = pids
        self._every_s = every_s
        self._ends = Event()
        self._thread = Thread(target=self._run, name="canary-watch", daemon=True)
        self._failure: Exception | None = None
        self.hits: set[Hit] = set()
        self.looked_at = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._ends.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._ends.wait(self._every_s):
                scan = self._canaries.in_processes(*self._pids)
                self.hits |= scan.hits
                self.looked_at += scan.looked_at
        except Exception as exc:  # noqa: BLE001 a thread has nobody above it: its owner raises this at the end
            self._failure = exc


def _forms(raw: bytes) -> Iterator[tuple[str, bytes]]:
    yield "plain", raw
    yield "hex", raw.hex().encode()
    yield "hex", raw.hex().upper().encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            yield "base64", _base64_inside(raw, offset, encode(b"\0" * offset + raw))
    for quoted in (quote(raw), quote(raw, safe=""), quote_plus(raw)):
        yield "url", quoted.encode()
        yield "url", _PERCENT.sub(lambda match: match[0].lower(), quoted).encode()
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return
    yield "utf-16", text.encode("utf-16-le")
    yield "utf-16", text.encode("utf-16-be")
    yield "json", json.dumps(text)[1:-1].encode()
    yield "json", json.dumps(text, ensure_ascii=False)[1:-1].encode()
    yield "sql", text.replace("'", "''").encode()


def _base64_inside(raw: bytes, offset: int, encoded: bytes) -> bytes:
    """Keep the characters that depend on ``raw`` alone, ``offset`` bytes into a larger text: three alignments."""
    start = -(-offset * 8 // 6)
    return encoded[start : (offset + len(raw)) * 8 // 6]


def _walk(roots: Iterable[Path], skip: set[Path], unread: list[str]) -> Iterator[Path]:
    for root in roots:
        if root.is_file():
            yield root
            continue
        walk = os.walk(root, onerror=lambda exc: unread.append(f"{exc.filename}: {exc.strerror}"))
        for folder, folders, names in walk:
            here = Path(folder)
            folders[:] = [name for name in folders if (here / name).absolute() not in skip]
            for path in map(here.__truediv__, names):
                if path.absolute() not in skip and _regular(path):
                    yield path


def _regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
