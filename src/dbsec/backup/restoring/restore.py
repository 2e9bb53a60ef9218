"""Restores a plan into an empty folder: proven objects, verified files, settings, and last what lets it start."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dbsec import files
from dbsec.backup.repository import Repository
from dbsec.backup.restoring import programs, publishing, settings_file, spaces
from dbsec.backup.restoring.claim import claimed
from dbsec.backup.restoring.errors import trouble
from dbsec.backup.restoring.filling import fill
from dbsec.backup.restoring.passwords import COPY
from dbsec.backup.restoring.plan import Plan
from dbsec.backup.restoring.room import check_room
from dbsec.backup.restoring.spaces import Space
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ProgramMissing
from dbsec.pg.binaries import Binaries
from dbsec.progress import Progress

WORKERS: Final = 3  # one waits for the disk or the store while two cores unpack
_LEFT_BY_A_SERVER: Final = ("standby.signal", "recovery.signal", "postmaster.pid", "postmaster.opts")


@dataclass(frozen=True, slots=True)
class Restored:
    """A folder that is ready to start. ``unverified`` is why pg_verifybackup was not run, or "".

    ``seconds`` and ``plain_bytes`` are what the next estimate is made from; the replay of WAL is not in them.
    """

    folder: Path
    backup: str
    seconds: float
    plain_bytes: int
    unverified: str
    spaces: tuple[Space, ...]
    notes: tuple[str, ...]

    @property
    def bytes_s(self) -> float:
        return self.plain_bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class _Job:
    repository: Repository
    plan: Plan
    binaries: Binaries | None
    workers: int
    verify: bool
    spaces: tuple[Space, ...]
    progress: Progress


def restore(
    repository: Repository,
    plan: Plan,
    folder: Path,
    *,
    restore_command: str,
    progress: Progress,
    binaries: Binaries | None = None,
    port: int | None = None,
    listen: str = "localhost",
    cluster_name: str = "",
    remap: Mapping[str, str] | None = None,
    owner: tuple[int, int] | None = None,
    workers: int = WORKERS,
    verify: bool = True,
    again: bool = False,
    clock: Clock = SYSTEM,
) -> Restored:
    """Fill an empty folder so that PostgreSQL recovers to the plan's target when it is started there.

    ``binaries`` verify, and combine incrementals; ``remap`` is old -> new folder of tablespaces; ``owner`` is (uid,
    gid), for root. Killed at any point, or refused, it leaves a folder in which no server starts, and which ``again``
    empties. Locks: flock on a marker in the folder. Errors: ``UsageError``; ``RestoreFailed``; ``Tampered``;
    ``IncompleteBackup``; ``NotVerified``; ``ProgramError``; ``GaveUp`` where the store stays away.
    """
    began = clock.monotonic()
    folder = folder.absolute()
    _check_programs(plan, binaries)
    with claimed(folder, again=again) as claim:
        placed = spaces.placed(plan.backup.tablespaces, remap or {}, folder)
        check_room(plan.chain, folder, placed)
        outside = [space.new for space in placed if not space.inside]
        claim.begin(plan.backup.id, outside, clock)
        job = _Job(repository, plan, binaries, workers, verify, placed, progress)
        whole, unverified = _chain(job, claim.work) if len(plan.chain) > 1 else _single(job, claim.work)
        settings = settings_file.recovery(plan.target, timeline=plan.timeline, restore_command=restore_command)
        apart = settings_file.isolation(
            int(plan.backup.server_version.partition(".")[0]),
            cluster_name=cluster_name or f"{COPY}{plan.backup.id}",
            listen=listen,
            port=port,
        )
        notes = _finish(whole, placed, {**apart, **settings})
        if owner is not None:
            publishing.give([folder, *outside], owner)
        progress.step("flushing to the disk")
        publishing.flush([folder, *outside])
        publishing.publish(folder, whole)
    return Restored(
        folder=folder,
        backup=plan.backup.id,
        seconds=clock.monotonic() - began,
        plain_bytes=plan.plain_bytes,
        unverified=unverified,
        spaces=placed,
        notes=tuple(notes),
    )


def _check_programs(plan: Plan, binaries: Binaries | None) -> None:
    if binaries is not None:
        programs.check_major(binaries, plan.backup.server_version)
    elif len(plan.chain) > 1:
        raise ProgramMissing("an incremental backup needs pg_combinebackup", hint="--bindir with PostgreSQL's programs")


def _single(job: _Job, work: Path) -> tuple[Path, str]:
    """Fill the folder and its tablespaces' own; returns it, and why it was not verified."""
    whole = work / "whole"
    places = {space.oid: space.new for space in job.spaces if not space.inside}
    fill(job.repository, job.plan.backup, whole, places, workers=job.workers, progress=job.progress)
    return whole, _verified(job, whole)


def _chain(job: _Job, work: Path) -> tuple[Path, str]:
    """Fill a folder for each backup of the chain, combine them, and delete them.

    pg_combinebackup believes what it reads, so each link is verified before and the result after.
    """
    if job.binaries is None:
        raise ProgramMissing("an incremental backup needs pg_combinebackup")
    links, places = [], dict[int, Path]()
    for number, backup in enumerate(job.plan.chain):
        link = work / f"link-{number}"
        places = {one.oid: work / f"link-{number}-{one.oid}" for one in backup.tablespaces if one.path.startswith("/")}
        for place in places.values():
            place.mkdir(mode=0o700)
        fill(job.repository, backup, link, places, workers=job.workers, progress=job.progress)
        _verified(job, link)
        links.append(link)
    job.progress.step(f"combining {len(links)} backups")
    moved = {places[space.oid]: space.new for space in job.spaces if not space.inside}
    whole = work / "whole"
    programs.combine(links, whole, moved, job.binaries)
    for left in work.glob("link-*"):
        shutil.rmtree(left)
    return whole, _verified(job, whole)


def _verified(job: _Job, data: Path) -> str:
    if not job.verify:
        return "it was not wanted"
    job.progress.step(f"pg_verifybackup on '{data.name}'")
    return programs.verify(data, job.binaries)


def _finish(whole: Path, placed: tuple[Space, ...], settings: Mapping[str, str]) -> list[str]:
    """Take out what leads to the original, and write what leads to the target."""
    for name in _LEFT_BY_A_SERVER:
        (whole / name).unlink(missing_ok=True)
    spaces.write_map(whole, placed)
    with trouble(whole):
        notes = settings_file.write_settings(whole, settings)
        files.write_atomic(whole / "recovery.signal", "")
        whole.chmod(0o700)
    return notes
