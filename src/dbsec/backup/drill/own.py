"""Our own repository under rehearsal: which backup, whether WAL has come, and a clone that is served WAL alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from dbsec.backup.catalog import Backup, description_name
from dbsec.backup.drill import proof
from dbsec.backup.drill.archive import Choice, Point
from dbsec.backup.drill.clone import Origin, Place
from dbsec.backup.drill.scenarios import DoesNotApply, Scenario
from dbsec.backup.errors import NotRecoverable
from dbsec.backup.key_records import KeyRecord, Wrap, epoch_name, wrap_aad
from dbsec.backup.recipients import record_name
from dbsec.backup.repository import Repository
from dbsec.backup.restoring import Target, plan, restore, window
from dbsec.backup.wal import commands
from dbsec.backup.wal.frontier import reaches
from dbsec.backup.wal.serving import FETCH, serve
from dbsec.pg.binaries import Binaries
from dbsec.progress import Progress

_NONE: Final = {
    Scenario.OLD_KEY: "no backup was sealed before the KEK that wraps now",
    Scenario.INCREMENTAL: "there is no incremental backup",
    Scenario.STANDBY: "no backup was taken from a standby",
}


@dataclass(frozen=True, slots=True)
class OwnArchive:
    """``opened`` opens the repository anew, as the host of a restore would: keys in memory prove nothing.

    ``binaries`` finds PostgreSQL's programs for the version that a backup is of.
    """

    opened: Callable[[], Repository]
    binaries: Callable[[str], Binaries]

    def choose(self, scenario: Scenario) -> Choice:
        """Choose the newest backup of the kind that has the WAL which makes it consistent."""
        repository = self.opened()
        usable = [one.backup for one in window(repository).reachable if one.consistent]
        if not usable:
            raise NotRecoverable("no finished backup has the WAL that makes it consistent", hint="dbsec backup take")
        for backup in reversed(usable):
            wraps = _first_wraps(repository, backup)
            if _fits(repository, backup, wraps, scenario):
                under = sorted({f"{wrap.kek} version {wrap.version}" for _, wrap in wraps})
                return Choice(backup.id, backup.server_version, repository.system, {"sealed_under": under})
        raise DoesNotApply(_NONE[scenario])

    def watched(self) -> Callable[[Point], bool]:
        """Return what tells whether WAL reaches a point without a hole behind it."""
        repository = self.opened()

        def holds(point: Point) -> bool:
            found = reaches(repository, timeline=point.timeline, since=point.lsn)
            return any(one.start <= point.lsn <= one.end and not one.holes for one in found)

        return holds

    def source(self, choice: Choice, target: Target) -> OwnSource:
        """Return a restore of that backup. Errors: ``ProgramMissing``."""
        return OwnSource(self.opened(), self.binaries(choice.server_version), target, choice.backup)

    def leave(self, now: datetime, told: Mapping[str, Any]) -> str:
        """Put a sealed note."""
        return proof.put_proof(self.opened(), now, told)


@dataclass(frozen=True, slots=True)
class OwnSource:
    """A backup of a repository and a target."""

    repository: Repository
    binaries: Binaries
    target: Target
    backup: str

    @contextmanager
    def filled(self, data: Path, place: Place, progress: Progress) -> Iterator[Origin]:
        """Restore into the folder. Errors: those of ``plan``, ``restore`` and ``serve``."""
        wanted = plan(self.repository, self.target, backup=self.backup)
        home = data.parent
        socket = home / "w"
        client = commands.install_client(home, owner=place.owner)
        command = commands.restore_command(socket, client=client, python=commands.find_python(place.account))
        spaces = {one.path: str(home / f"space-{one.oid}") for one in wanted.backup.tablespaces}
        done = restore(
            self.repository,
            wanted,
            data,
            restore_command=command,
            progress=progress,
            binaries=self.binaries,
            listen="127.0.0.1",
            remap={old: new for old, new in spaces.items() if old.startswith("/")},
            owner=place.owner,
        )
        with serve(self.repository, socket, verbs=(FETCH,), owner=place.owner):
            notes = (*wanted.notes, *done.notes)
            yield Origin(done.backup, str(wanted.target), done.plain_bytes, done.unverified, notes)


def _fits(repository: Repository, backup: Backup, wraps: Sequence[tuple[str, Wrap]], scenario: Scenario) -> bool:
    if scenario is Scenario.INCREMENTAL:
        return bool(backup.parent)
    if scenario is Scenario.STANDBY:
        return backup.source == "standby"
    return scenario is not Scenario.OLD_KEY or _is_old(repository, wraps)


def _first_wraps(repository: Repository, backup: Backup) -> Sequence[tuple[str, Wrap]]:
    """Return the wraps with which a backup's key was put, each with the name it is bound to.

    Rewraps come in objects of their own. Where a recipient holds the key, it is the recipient's that a KEK wraps.
    """
    names = [epoch_name(repository.header(description_name(backup.id)).epoch)]
    found = []
    for name in names:
        for wrap in KeyRecord.parse(name, repository.store.get(name)).wraps:
            if wrap.of_recipient and record_name(wrap.holder) not in names:
                names.append(record_name(wrap.holder))
            elif not wrap.of_recipient:
                found.append((name, wrap))
    return found


def _is_old(repository: Repository, wraps: Sequence[tuple[str, Wrap]]) -> bool:
    """Tell whether another KEK or version wraps now. Errors: ``KmsError``."""
    holders = repository.keys.holders()
    for name, wrap in wraps:
        if (kms := holders.get(wrap.holder)) is not None:
            now = kms.describe(wrap_aad(name, repository.system))
            if (now.kek, now.version) != (wrap.kek, wrap.version):
                return True
    return False
