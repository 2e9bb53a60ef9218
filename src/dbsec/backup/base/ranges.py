"""Takes a base backup of a server on this machine by reading its files in ranges, between pg_backup_start and _stop.

Source: PostgreSQL, "Making a Base Backup Using the Low Level API".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from dbsec.backup.base import local_folder
from dbsec.backup.base.options import TakeOptions
from dbsec.backup.base.range_folders import Folders, list_folders
from dbsec.backup.base.range_reading import Suspect
from dbsec.backup.base.range_storing import Last, Storer
from dbsec.backup.catalog import Backup, Layout
from dbsec.backup.errors import BackupError, DamagedPages
from dbsec.backup.keys import Epoch
from dbsec.backup.repository import Repository, check_cluster, read_marker
from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.errors import ConnectError, UsageError, reason
from dbsec.pg import Conninfo, connect
from dbsec.pg.lsn import Lsn
from dbsec.progress import Progress

_TIMELINE: Final = re.compile(rb"^START TIMELINE: (\d+)$", re.MULTILINE)
_MOST_PAGES: Final = 5
_ENDLESS: Final = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0"


@dataclass(frozen=True, slots=True)
class _Stopped:
    """What PostgreSQL says at the end: the label and the map of tablespaces are files of the backup."""

    lsn: Lsn
    label: bytes
    spaces: bytes

    @property
    def timeline(self) -> int:
        found = _TIMELINE.search(self.label)
        if found is None:
            raise BackupError("the server's backup_label names no timeline")
        return int(found[1])


def take_by_ranges(
    repository: Repository,
    server: Conninfo,
    options: TakeOptions,
    *,
    id: str,
    epoch: Epoch,
    progress: Progress,
    clock: Clock = SYSTEM,
) -> Backup:
    """Take a full backup of a server, primary or standby, whose data folder can be read here; return it, not put.

    ``options.workers`` threads read, check, pack and seal. Rights: to read the folder; pg_read_all_settings and EXECUTE
    of pg_backup_start and pg_backup_stop. Errors: ``UsageError``; ``WrongCluster``; ``ConnectError``, with
    PostgreSQL's reason; ``DamagedPages``; ``BackupError``; those of ``Repository.put``.
    """
    _check_options(options)
    with connect(server) as session, _reasons(id):
        session.execute(_ENDLESS)
        asked = local_folder.ask(session)
        marker = read_marker(repository.store)
        check_cluster(marker, asked.system)
        local_folder.check_folder(session, asked)
        started = clock.now()
        progress.step(f"backup {id}: PostgreSQL makes a checkpoint")
        start, timeline = _start(session, options)
        storer = Storer(repository, id, epoch, timeline, asked, options, progress, clock)
        folders = list_folders(asked)
        _say_odd(folders, progress)
        suspects = storer.store(folders)
        control = local_folder.read_control(asked.folder)
        stopped = _stop(session)
    _check_pages(suspects, start, stopped.lsn)
    stored = storer.finish(Last(control, stopped.label, stopped.spaces), start, stopped.lsn, stopped.timeline)
    return Backup(
        id=id,
        system=repository.system,
        layout=Layout.RANGES,
        parent="",
        engine="ranges",
        source="standby" if asked.standby else "primary",
        server_version=asked.version.partition(" ")[0],
        timeline=stopped.timeline,
        start_lsn=str(start),
        stop_lsn=str(stopped.lsn),
        started=rfc3339(started),
        stopped=rfc3339(clock.now()),
        segment_bytes=marker.segment_bytes,
        archives=stored.archives,
        manifest=stored.manifest,
        tablespaces=folders.tablespaces,
        plain_bytes=sum(archive.plain_bytes for archive in stored.archives),
        stored_bytes=stored.stored_bytes,
        page_checksums=asked.checksums,
        label=options.label,
    )


def _check_options(options: TakeOptions) -> None:
    if options.incremental or options.parent:
        raise UsageError("file ranges make full backups only", hint="--engine protocol --incremental")
    if options.compress == "server":
        raise UsageError("file ranges are packed here: the server has no part in it", hint="--compress auto")


def _start(session: psycopg.Connection[Any], options: TakeOptions) -> tuple[Lsn, int]:
    """Begin: a checkpoint is made, and pages are logged whole from now on. Returns where WAL is needed from."""
    told = [options.label or "dbsec", options.checkpoint == "fast"]
    (start,) = session.execute("SELECT pg_backup_start(%s, %s)::text", told).fetchone() or ("",)
    (timeline,) = session.execute("SELECT timeline_id FROM pg_control_checkpoint()").fetchone() or (0,)
    return Lsn.parse(start), timeline


def _stop(session: psycopg.Connection[Any]) -> _Stopped:
    """End: WAL is not waited for, as whoever takes the backup asks the repository for it."""
    row = session.execute("SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(false)").fetchone()
    assert row is not None
    return _Stopped(Lsn.parse(row[0]), row[1].encode(), (row[2] or "").encode())


def _say_odd(folders: Folders, progress: Progress) -> None:
    for path in folders.odd:
        progress.step(f"left out: '{path}' is neither a file nor a folder")


def _check_pages(suspects: list[Suspect], start: Lsn, stop: Lsn) -> None:
    """Judge pages that fail: one that was changed during the backup is torn at worst, and WAL holds it whole."""
    damaged = [one for one in suspects if not start.value <= one.lsn <= stop.value]
    if damaged:
        shown = [f"block {one.block} of '{one.path}'" for one in damaged[:_MOST_PAGES]]
        more = [f"{len(damaged) - _MOST_PAGES} more"] if len(damaged) > _MOST_PAGES else []
        raise DamagedPages(f"checksum verification failure: {', '.join([*shown, *more])}")


@contextmanager
def _reasons(backup: str) -> Iterator[None]:
    """Say of what the server refuses that no backup has come of it."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as exc:
        grants = "GRANT EXECUTE ON FUNCTION pg_backup_start, pg_backup_stop TO the login"
        raise UsageError(f"PostgreSQL refuses: {reason(exc)}", hint=grants) from exc
    except psycopg.Error as exc:
        raise ConnectError(
            f"{reason(exc)}; backup '{backup}' is not finished", sqlstate=exc.sqlstate, hint="dbsec backup take"
        ) from exc
