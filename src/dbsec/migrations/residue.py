"""Looks for a secret that must be gone: in table files, WAL, logs, standbys, backups, statistics. It only reads.

A value is named by a hash, never shown. A search that finds nothing proves something only where the same search found
it before (``Searched.gone_since``): compression and encryption hide bytes. Values of more than about 2 kB are
compressed in TOAST, full pages in WAL where wal_compression is on; both are told as caveats. What a file system has
freed, what a disk keeps below it, and what another machine has copied is beyond this.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbsec.errors import UsageError
from dbsec.progress import Progress, Silent

_CHUNK = 4 << 20
_SHORTEST = 6  # bytes; below it a hit is likely to be chance
# By their first bytes: a name may say anything, as .tgz and .dump do.
_OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b\x08": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_PACKED = {".gz", ".tgz", ".bz2", ".xz"}
_SEALS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"PK\x03\x04": "zip", b"PGDMP": "pg_dump"}
_SEALED = {".zst", ".lz4", ".gpg", ".age", ".enc"}  # what cannot be looked into


@dataclass(frozen=True, slots=True)
class Canary:
    """A value that is looked for. ``name`` is a hash of it; it shows as that alone."""

    name: str
    forms: tuple[tuple[str, bytes], ...] = field(repr=False)

    @classmethod
    def of(cls, value: str | bytes) -> Canary:
        """Name a value and the forms in which PostgreSQL writes it. Errors: ``UsageError`` for less than 6 bytes."""
        raw = value.encode() if isinstance(value, str) else value
        if len(raw) < _SHORTEST:
            raise UsageError(f"a value of {len(raw)} bytes is found by chance", hint=f"take one of {_SHORTEST} or more")
        name = hashlib.sha256(b"dbsec residue\0" + raw).hexdigest()[:12]
        forms = {"plain": raw, "hex": raw.hex().encode()}  # bytea in text, as in the log
        if raw.replace(b"'", b"''") != raw:
            forms["sql"] = raw.replace(b"'", b"''")
        return cls(name, tuple(forms.items()))


@dataclass(frozen=True, slots=True)
class Place:
    """A file to look into, or text that is here already. ``kind``: table, index, toast, catalog, wal, log …"""

    kind: str
    name: str
    path: Path | None = None
    text: bytes = b""


@dataclass(frozen=True, slots=True, order=True)
class Trace:
    """A value that was found: so many times, in that form, in that place."""

    kind: str
    place: str
    canary: str
    form: str
    count: int


@dataclass(frozen=True, slots=True)
class Searched:
    """What was found, how much was looked at, what could not be, and what may hide a value."""

    traces: tuple[Trace, ...] = ()
    files: int = 0
    size_bytes: int = 0
    unread: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()

    @property
    def kinds(self) -> dict[str, int]:
        """How often something was found, by kind of place."""
        found: dict[str, int] = {}
        for trace in self.traces:
            found[trace.kind] = found.get(trace.kind, 0) + trace.count
        return found

    def gone_since(self, before: Searched) -> bool | None:
        """Tell whether what ``before`` found is gone; None: that cannot be told, for it saw nothing, or not all."""
        if self.traces:
            return False
        return None if not before.traces or self.unread else True


def search(
    canaries: Sequence[Canary],
    places: Iterable[Place],
    *,
    caveats: Iterable[str] = (),
    progress: Progress | None = None,
) -> Searched:
    """Look into each place, one chunk in memory at a time; a file that goes away meanwhile is passed over."""
    progress = progress or Silent()
    traces: list[Trace] = []
    unread: list[str] = []
    files = size = 0
    for place in places:
        try:
            counts, looked = _looked_into(canaries, place)
        except FileNotFoundError:
            continue  # a live server deletes and renames files while they are listed
        except (OSError, EOFError, lzma.LZMAError, _Unreadable) as exc:
            unread.append(f"{place.name}: {getattr(exc, 'strerror', None) or exc}")
            continue
        files += 1
        size += looked
        found = ((name, form, count) for (name, form), count in counts.items() if count)
        traces += [Trace(place.kind, place.name, name, form, count) for name, form, count in found]
        progress.count("MB searched", size >> 20, (size >> 20) + 1)
    return Searched(tuple(sorted(traces)), files, size, tuple(unread), tuple(caveats))


def files_below(root: Path, kind_of: Callable[[Path], str], label: str = "") -> Iterator[Place]:
    """Yield each regular file below a folder, or the file itself; links (tablespaces, pg_wal, a log) are followed.

    ``kind_of`` gets the path below ``root``. What cannot be listed is an error where it is read.
    """
    if root.is_file():
        yield Place(kind_of(Path(root.name)), label or str(root), root)
        return
    failed: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=failed.append):
        here = Path(folder)
        if here.name == "pg_tblspc":
            for name in folders:
                yield from files_below((here / name).resolve(), lambda _: "tablespace", f"{label}pg_tblspc/{name}")
            continue
        for name in folders:
            if (here / name).is_symlink():
                yield from _linked(root, here / name, kind_of, label)
        for path in sorted(here / name for name in names):
            below = path.relative_to(root)
            if _regular(path):
                yield Place(kind_of(below), f"{label}{below}", path)
    for error in failed:
        yield Place("unread", f"{error.filename}", Path(str(error.filename)))


def _linked(root: Path, link: Path, kind_of: Callable[[Path], str], label: str) -> Iterator[Place]:
    """Follow a link to a folder elsewhere; one that leads back is searched where it is."""
    at, target, here = link.relative_to(root), link.resolve(), root.resolve()
    if target == here or target in here.parents or here in target.parents:
        return
    yield from files_below(target, lambda below: kind_of(at / below), f"{label}{at}/")


class _Unreadable(Exception):
    """A file whose bytes say nothing."""


def _looked_into(canaries: Sequence[Canary], place: Place) -> tuple[dict[tuple[str, str], int], int]:
    if place.path is None:
        return _counted(canaries, iter([place.text]))
    if place.path.suffix in _SEALED:
        raise _Unreadable(f"'{place.path.suffix}' hides what is in it: search what it was made of")
    with place.path.open("rb", buffering=0) as stream:
        head = stream.read(8)
    if sealed := next((name for mark, name in _SEALS.items() if head.startswith(mark)), ""):
        raise _Unreadable(f"{sealed} hides what is in it: search what it was made of")
    opener = next((act for mark, act in _OPENERS.items() if head.startswith(mark)), None)
    if opener is None and place.path.suffix in _PACKED:
        raise _Unreadable("it is not packed as its name says")
    with opener(place.path) if opener else place.path.open("rb", buffering=0) as stream:
        return _counted(canaries, iter(lambda: stream.read(_CHUNK), b""))


def _counted(canaries: Sequence[Canary], chunks: Iterator[bytes]) -> tuple[dict[tuple[str, str], int], int]:
    """Count each form; what spans two chunks is seen once, by the end of the one before."""
    needles = [(canary.name, form, text) for canary in canaries for form, text in canary.forms]
    counts = dict.fromkeys(((name, form) for name, form, _ in needles), 0)
    overlap = max((len(text) for _, _, text in needles), default=1) - 1
    kept, size = b"", 0
    for chunk in chunks:
        window = kept + chunk
        for name, form, text in needles:
            start = max(0, len(kept) - len(text) + 1)
            counts[name, form] += window.count(text, start)
        kept = window[-overlap:] if overlap else b""
        size += len(chunk)
    return counts, size


def _regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def told(searched: Searched) -> dict[str, Any]:
    """Say it as JSON: names by hash, places, counts."""
    keys = ("kind", "place", "canary", "form", "count")
    return {
        "traces": [dict(zip(keys, (t.kind, t.place, t.canary, t.form, t.count), strict=True)) for t in searched.traces],
        "kinds": searched.kinds,
        "files": searched.files,
        "size_bytes": searched.size_bytes,
        "unread": list(searched.unread),
        "caveats": list(searched.caveats),
    }
