"""Gives PostgreSQL a file of the archive, proven and whole, or the proof that the archive ends before it."""

from __future__ import annotations

from pathlib import Path

from dbsec import files
from dbsec.backup.errors import ArchiveHole, Tampered, WrongCluster
from dbsec.backup.repository import Repository, read_marker
from dbsec.backup.wal import pieces
from dbsec.backup.wal.ends import EndOfArchive, check_there, prove_end, prove_no_history
from dbsec.backup.wal.names import Segment, object_name
from dbsec.backup.wal.pages import WrongSegment, check_segment
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import UsageError
from dbsec.store import ObjectMissing

SETTLE_S = 3.0  # two workers of an archiver may put a segment before the one that precedes it


def fetch(
    repository: Repository, name: str, target: Path, *, settle_s: float = SETTLE_S, clock: Clock = SYSTEM
) -> None:
    """Write a file of the archive to ``target``, which then is whole and durable, or is not touched.

    Errors: ``EndOfArchive`` where it is proven; ``ArchiveHole`` after ``settle_s``, within which a segment that is
    being archived may come; ``Tampered``, ``KeyUnavailable``, those of the store; ``UsageError``; ``OSError``.
    """
    files.write_atomic(target, read(repository, name, settle_s=settle_s, clock=clock))


def read(
    repository: Repository, name: str, *, segment_bytes: int = 0, settle_s: float = SETTLE_S, clock: Clock = SYSTEM
) -> bytes:
    """Return the bytes of a file of the archive, proven. ``segment_bytes`` 0: asked of the repository.

    Errors: those of ``fetch``.
    """
    deadline = clock.monotonic() + settle_s
    segment_bytes = segment_bytes or read_marker(repository.store).segment_bytes
    while True:
        try:
            return _read(repository, name, segment_bytes)
        except ArchiveHole:
            if clock.monotonic() >= deadline:
                raise
        clock.sleep(0.2)


def read_whole_object(repository: Repository, name: str, segment_bytes: int) -> bytes:
    """Return a file that is there as one object. Errors: ``ObjectMissing``, ``Tampered``, ``KeyUnavailable``."""
    plain = repository.get(object_name(name))
    if len(name) == 24:
        _check(object_name(name), name, plain, repository.system, segment_bytes)
    return plain


def _read(repository: Repository, name: str, segment_bytes: int) -> bytes:
    try:
        return read_whole_object(repository, name, segment_bytes)
    except ObjectMissing:
        pass
    if name.endswith(".history"):
        prove_no_history(repository, name)
    if len(name) != 24:
        check_there(repository)
        raise EndOfArchive(f"'{name}' is not in the archive")
    try:
        segment = Segment.parse(name, segment_bytes)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    return _composed(repository, segment)


def _composed(repository: Repository, segment: Segment) -> bytes:
    """Compose a segment that was streamed and never became full; the end of it is zeros, where recovery ends."""
    usable = pieces.contiguous(pieces.of_segment(repository, segment))
    prove_end(repository, segment, composed=usable[-1].end if usable else 0)
    if not usable:
        raise EndOfArchive(f"'{segment.name}' is not in the archive, nor is anything after it")
    plain = pieces.compose(repository, usable).ljust(segment.segment_bytes, b"\0")
    _check(usable[0].name, segment.name, plain, repository.system, segment.segment_bytes)
    return plain


def _check(object_name: str, name: str, plain: bytes, system: int, segment_bytes: int) -> None:
    try:
        check_segment(name, plain, system=system, segment_bytes=segment_bytes)
    except (WrongCluster, WrongSegment) as exc:
        raise Tampered(object_name, exc.message) from exc
