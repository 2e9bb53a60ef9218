"""Takes a base backup through the replication protocol: one stream of all archives, sealed while it comes.

Source: PostgreSQL, "Streaming Replication Protocol", BASE_BACKUP and UPLOAD_MANIFEST.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from psycopg.pq import ExecStatus

from dbsec.backup.base.archiving import Stream
from dbsec.backup.base.options import TakeOptions
from dbsec.backup.base.parents import check_parent, parent_of, upload
from dbsec.backup.base.replication import Replication, Row, literal, open_replication, rows_of
from dbsec.backup.base.writing import Sealer
from dbsec.backup.catalog import Backup, Layout, Tablespace
from dbsec.backup.codec import LEVEL
from dbsec.backup.errors import BackupError, DamagedPages
from dbsec.backup.keys import Epoch
from dbsec.backup.repository import Marker, Repository, check_cluster, read_marker
from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.errors import ConnectError, UsageError
from dbsec.pg import Conninfo
from dbsec.pg.lsn import Lsn
from dbsec.progress import Progress

EARLIEST: Final = 15  # the first that sends all archives in one stream, and can pack them
SILENCE_S: Final = 300.0  # nobody waits within a stream, neither for a checkpoint nor for the archiver
DATA_CORRUPTED: Final = "XX001"
# what a server says to a compression that its build has not: the feature, the word, the count of workers
_CANNOT_PACK: Final = ("0A000", "42601", "22023")
MOST_WARNINGS: Final = 5
_RATE_KB: Final = (32, 1 << 20)


@dataclass(frozen=True, slots=True)
class _Began:
    """What a server answers before its stream."""

    timeline: int
    start: Lsn
    tablespaces: tuple[Tablespace, ...]
    plain_bytes: int
    packed: str


def take_by_protocol(
    repository: Repository,
    server: Conninfo,
    options: TakeOptions,
    *,
    id: str,
    epoch: Epoch,
    progress: Progress,
    clock: Clock = SYSTEM,
) -> Backup:
    """Take a backup of the server that ``server`` names, a primary or a standby, and return its description, not put.

    Errors: ``ConnectError``, with PostgreSQL's own reason; ``DamagedPages``; ``WrongCluster``; ``UsageError``; those of
    ``Repository.put``.
    """
    parent = parent_of(repository, options)
    with open_replication(server) as session, _reasons(session, id, incremental=parent is not None):
        marker = read_marker(repository.store)
        _check(session, marker)
        told = {name: session.show(name) for name in ("in_hot_standby", "data_checksums", "server_version")}
        if parent is not None:
            check_parent(session, parent)
            upload(session, repository, parent, progress)
        started = clock.now()
        progress.step(f"backup {id}: PostgreSQL makes a checkpoint")
        began = _begin(session, options, incremental=parent is not None)
        workers = options.workers
        with Sealer(repository, id, epoch, timeline=began.timeline, workers=workers) as sealer:
            stream = Stream(sealer, id, began.packed, [one.oid for one in began.tablespaces], _teller(progress, began))
            stream.read(session.messages(silence_s=SILENCE_S))
            stop = _stopped(session)  # what broke the stream off is told here, before its absence is
            stream.finish()
    return Backup(
        id=id,
        system=repository.system,
        layout=Layout.TAR if began.packed else Layout.SLICES,
        parent=parent.id if parent is not None else "",
        engine="protocol",
        source="standby" if told["in_hot_standby"] == "on" else "primary",
        server_version=told["server_version"].partition(" ")[0],
        timeline=began.timeline,
        start_lsn=str(began.start),
        stop_lsn=str(stop),
        started=rfc3339(started),
        stopped=rfc3339(clock.now()),
        segment_bytes=marker.segment_bytes,
        archives=tuple(stream.archives),
        manifest=stream.manifest,
        tablespaces=began.tablespaces,
        plain_bytes=sum(archive.plain_bytes for archive in stream.archives),
        stored_bytes=sealer.stored_bytes,
        page_checksums=told["data_checksums"] == "on",
        label=options.label,
    )


def _check(session: Replication, marker: Marker) -> None:
    if session.major < EARLIEST:
        raise UsageError(f"PostgreSQL {session.major} is too old: dbsec backs up {EARLIEST} and later")
    check_cluster(marker, session.identify().system)


def _begin(session: Replication, options: TakeOptions, *, incremental: bool) -> _Began:
    """Ask for a backup, packed by the server where it can: its build decides, and its version says nothing of that."""
    ways = _ways(options)
    for way in ways:
        try:
            return _answer(session, _command(options, way, incremental=incremental), packed="zstd" if way else "")
        except ConnectError as exc:
            if exc.sqlstate not in _CANNOT_PACK or way == ways[-1]:
                raise
    raise AssertionError("the last way returns or raises")


def _ways(options: TakeOptions) -> list[str]:
    """Return what to ask of the server's zstd, best first; "" is to pack here.

    Even one thread beside the one that reads makes it faster; a libzstd may have been built without any.
    """
    if options.compress == "client":
        return [""]
    ways = [f"level={LEVEL},workers={options.workers}", f"level={LEVEL}"]
    return ways if options.compress == "server" else [*ways, ""]


def _command(options: TakeOptions, detail: str, *, incremental: bool) -> str:
    """Return BASE_BACKUP as 15 and later read it; no WAL comes with it, and it does not wait for the archiver."""
    label = literal(options.label or "dbsec")
    words = [
        f"LABEL {label}, PROGRESS true, CHECKPOINT '{options.checkpoint}', WAL false, WAIT false, TARGET 'client'",
        "TABLESPACE_MAP true, VERIFY_CHECKSUMS true, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C'",
    ]
    if detail:
        words.append(f"COMPRESSION 'zstd', COMPRESSION_DETAIL '{detail}'")
    if options.rate_bytes_s is not None:
        least, most = _RATE_KB
        words.append(f"MAX_RATE {min(max(options.rate_bytes_s // 1024, least), most)}")
    if incremental:
        words.append("INCREMENTAL true")
    return f"BASE_BACKUP ({', '.join(words)})"


def _answer(session: Replication, command: str, *, packed: str) -> _Began:
    session.send(command)
    (start, timeline, *_), *_ = _rows(session)
    spaces = _rows(session)
    result = session.result()
    if result is None or result.status != ExecStatus.COPY_OUT:
        raise BackupError("the server answers BASE_BACKUP without a stream")
    known = tuple(Tablespace(int(oid), path or "") for oid, path, *_ in spaces if oid is not None)
    sizes = [int(size) for *_, size in spaces if size is not None]
    return _Began(int(timeline or 0), Lsn.parse(start or ""), known, sum(sizes) * 1024, packed)


def _rows(session: Replication, *, within_s: float | None = None) -> list[Row]:
    result = session.result(within_s=within_s)
    if result is None or result.status != ExecStatus.TUPLES_OK:
        said = "nothing" if result is None else ExecStatus(result.status).name
        raise BackupError(f"the server answers BASE_BACKUP with {said}")
    return rows_of(result)


def _stopped(session: Replication) -> Lsn:
    """Read the end of the backup, and all that comes after it: pages that failed their checksums are told last."""
    ((stop, *_), *_) = _rows(session, within_s=SILENCE_S)
    while session.result(within_s=SILENCE_S) is not None:
        pass
    return Lsn.parse(stop or "")


def _teller(progress: Progress, began: _Began) -> Callable[[int], None]:
    text = "MB read" + (", packed by the server" if began.packed else ", packed here")

    def told(plain_bytes: int) -> None:
        progress.count(text, plain_bytes >> 20, max(began.plain_bytes, plain_bytes) >> 20)

    return told


@contextmanager
def _reasons(session: Replication, backup: str, *, incremental: bool) -> Iterator[None]:
    """Say of what the server refuses, or a network cuts, that no backup has come of it."""
    try:
        yield
    except ConnectError as exc:
        if exc.sqlstate == DATA_CORRUPTED:
            raise DamagedPages("; ".join([exc.message, *session.warnings[:MOST_WARNINGS]])) from exc
        again = "dbsec backup take" + (" (a full one)" if incremental and exc.sqlstate else "")
        hint = f"{exc.hint}; then: {again}" if exc.hint else again
        raise ConnectError(
            f"{exc.message}; backup '{backup}' is not finished", sqlstate=exc.sqlstate, hint=hint
        ) from exc
