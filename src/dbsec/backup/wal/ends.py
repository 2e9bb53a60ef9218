"""The proof that an archive ends: by listings, so that a failure or a hole never passes for the end."""

from __future__ import annotations

from dbsec.backup.errors import ArchiveHole, BackupError
from dbsec.backup.repository import Repository, check_cluster, read_marker
from dbsec.backup.wal import pieces
from dbsec.backup.wal.frontier import TIMELINE, histories, timelines
from dbsec.backup.wal.names import HISTORY, Segment, object_name, timeline_prefix
from dbsec.pg.lsn import Lsn


class EndOfArchive(BackupError):
    """The archive ends before this file, proven: what PostgreSQL is told by exit code 1."""

    exit_code = 1


def prove_end(repository: Repository, segment: Segment, *, composed: int = 0) -> None:
    """Return where nothing shows that the archive had more of a segment than its first ``composed`` bytes.

    What shows it: a later segment or piece of the timeline, a piece of this segment behind a gap, a backup that was
    taken there, or a timeline that was left for another one only later.
    Errors: ``ArchiveHole``, which names it; ``Tampered`` and ``KeyUnavailable`` of a history; those of the store.
    """
    witness = _later_segment(repository, segment) or _later_piece(repository, segment, composed)
    witness = witness or _backup_there(repository, segment) or _left_later(repository, segment, composed)
    check_there(repository)
    if witness:
        where = f"from byte {composed} on" if composed else "as a whole"
        raise ArchiveHole(
            f"'{segment.name}' is missing {where}, but {witness}: the archive has a hole",
            hint="dbsec backup verify shows what can be recovered; a target before the hole can be",
        )


def prove_no_history(repository: Repository, name: str) -> None:
    """Return where nothing shows that a timeline's ``.history`` was archived.

    A cluster whose archive begins on its timeline has none; one that came from a timeline of this archive has.
    Errors: as of ``prove_end``.
    """
    timeline = int(name[:8], 16)
    found = timelines(repository)
    known = _histories_named(repository)
    if timeline in known:
        raise ArchiveHole(f"'{name}' is listed and cannot be read")
    born_here = any(older < timeline for older in found)
    heirs = [child for child in sorted(known) if child > timeline and _descends(repository, child, timeline)]
    if born_here and (timeline in found or heirs):
        witness = f"timeline {timeline} has WAL" if timeline in found else f"timeline {heirs[0]} descends from it"
        raise ArchiveHole(
            f"'{name}' is missing, but {witness}: the archive has a hole",
            hint=f"if the server still has it: dbsec backup wal push pg_wal/{name}",
        )


def check_there(repository: Repository) -> None:
    """Refuse listings of a place that no longer is the repository: a disk that is not mounted is an empty folder.

    Errors: ``NoRepository``, ``WrongCluster``, those of the store.
    """
    check_cluster(read_marker(repository.store), repository.system)


def _later_segment(repository: Repository, segment: Segment) -> str:
    # whatever comes later in the listing counts, also a name of none of ours: doubt is no proof
    entry = next(iter(repository.list(timeline_prefix(segment.timeline), object_name(segment.name))), None)
    return f"'{entry.name}' is there" if entry else ""


def _later_piece(repository: Repository, segment: Segment, composed: int) -> str:
    for owner, found in pieces.by_segment(repository, segment):
        for piece in found:
            if owner != segment or piece.end > composed:
                return f"'{piece.name}' is there"
    return ""


def _backup_there(repository: Repository, segment: Segment) -> str:
    prefix = f"{HISTORY}{segment.timeline:08X}"
    for entry in repository.list(prefix):
        stem, _, rest = entry.name.removeprefix(HISTORY).partition(".")
        if rest.endswith("backup") and stem > segment.name:
            return f"a backup began later, at '{stem}'"
    return ""


def _left_later(repository: Repository, segment: Segment, composed: int) -> str:
    reached = Lsn(segment.start.value + composed)
    for child, ancestors in sorted(histories(repository).items()):
        for parent, switch in ancestors:
            if parent == segment.timeline and switch > reached:
                return f"timeline {child} was begun at {switch} of it"
    return ""


def _histories_named(repository: Repository) -> set[int]:
    names = (entry.name.removeprefix(HISTORY).partition(".") for entry in repository.list(HISTORY))
    return {int(stem, 16) for stem, _, kind in names if kind == "history" and TIMELINE.fullmatch(stem)}


def _descends(repository: Repository, child: int, timeline: int) -> bool:
    return any(parent == timeline for parent, _ in histories(repository).get(child, ()))
