"""A repository of pgBackRest under rehearsal: it restores as it always does, and our witness judges.

pgBackRest's own proof ends at a file's SHA-1: where WAL is damaged it hands PostgreSQL what it has, or says that the
archive ends, and a server without a target opens short. A restore point that must be reached shows it.
Source: pgBackRest, "Command Reference", "info"; its ``src/build/error/error.yaml``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from dbsec import process
from dbsec.backup.drill import apart
from dbsec.backup.drill.archive import Choice, Point
from dbsec.backup.drill.clone import NotRestored, Origin, Place
from dbsec.backup.drill.scenarios import DoesNotApply, Scenario
from dbsec.backup.errors import BackupError, NotRecoverable
from dbsec.backup.restoring import Target, settings_file
from dbsec.backup.wal.names import Segment
from dbsec.errors import ProgramError
from dbsec.pg import Conninfo, connect
from dbsec.pg.binaries import Binaries
from dbsec.pg.lsn import Lsn
from dbsec.process import Account
from dbsec.progress import Progress

# of a checksum, a file or format that is not what it was, one that is missing, a set, a key: what lies there is at
# fault. Another code is of options, locks, accounts or the way there, and says nothing about the backup.
_DAMAGE: Final = frozenset({26, 28, 29, 42, 51, 55, 75, 95, 98})
_NO_BACKUP: Final = 2
_MOST_S: Final = 24 * 3600
_NONE: Final = {
    Scenario.OLD_KEY: "a repository of pgBackRest has one key for its life: there is none from before",
    Scenario.INCREMENTAL: "the stanza has no incremental or differential backup",
    Scenario.STANDBY: "pgBackRest does not tell which backups a standby gave",
}
_ITS_OWN: Final = ("restore_command", "recovery_target")


@dataclass(frozen=True, slots=True)
class PgBackRest:
    """A stanza. ``config`` None is pgBackRest's own place; ``account`` may read the repository and runs the clone.

    ``binaries`` finds PostgreSQL's programs for the version of a backup.
    """

    stanza: str
    server: Conninfo
    account: Account
    binaries: Callable[[str], Binaries]
    config: Path | None = None
    program: Path = Path("/usr/bin/pgbackrest")

    def choose(self, scenario: Scenario) -> Choice:
        """Choose the newest backup of the kind. Errors: ``ProgramError``, ``BackupError`` for a stanza in error."""
        told = self._told()
        code = told["status"]["code"]
        if code == _NO_BACKUP or (not code and not told["backup"]):
            raise NotRecoverable(f"the stanza '{self.stanza}' has no backup", hint="pgbackrest backup")
        if code:
            raise BackupError(f"stanza '{self.stanza}': {told['status'].get('message', code)}", hint="pgbackrest info")
        if scenario in (Scenario.OLD_KEY, Scenario.STANDBY):
            raise DoesNotApply(_NONE[scenario])
        for backup in reversed(told["backup"]):
            if scenario is not Scenario.INCREMENTAL or backup["type"] != "full":
                version, system = self._database(told, backup["database"])
                facts = {"pgbackrest": True, "stanza": self.stanza, "type": backup["type"]}
                facts |= {"page_checksum_errors": bool(backup.get("error"))}
                return Choice(backup["label"], version, system, {**facts, "bytes": backup["info"]["size"]})
        raise DoesNotApply(_NONE[scenario])

    def watched(self) -> Callable[[Point], bool]:
        """Return what tells whether the archive's newest segment is a point's, or a later one: it has no parts."""
        with connect(self.server) as session:
            row = session.execute("SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size'").fetchone()
        segment_bytes = int(row[0]) if row else 16 << 20

        def holds(point: Point) -> bool:
            last = Segment.at(point.timeline, Lsn(point.lsn.value - 1), segment_bytes).name
            newest = [one["max"] or "" for one in self._told()["archive"]]
            return any(name[:8] == last[:8] and name >= last for name in newest)

        return holds

    def source(self, choice: Choice, target: Target) -> PgBackRestSource:
        """Return a restore by pgBackRest. Errors: ``ProgramMissing``."""
        return PgBackRestSource(self, self.binaries(choice.server_version), target, choice)

    def leave(self, now: datetime, told: Mapping[str, Any]) -> str:
        """Keep nothing: a note of ours has no place there; the evidence has it."""
        return ""

    def command(self, verb: str, *options: str) -> str:
        """Run it as the account, which leaves no log. Errors: ``ProgramError``."""
        config = () if self.config is None else (f"--config={self.config}",)
        quiet = ("--log-level-file=off", "--log-level-console=error", "--log-level-stderr=error")
        argv = [self.program, *config, f"--stanza={self.stanza}", *quiet, *options, verb]
        return process.run(argv, cwd=Path("/"), account=self.account, timeout_s=_MOST_S, hint="pgbackrest check")

    def _told(self) -> dict[str, Any]:
        found = json.loads(self.command("info", "--output=json"))
        if not found:
            raise BackupError(f"pgBackRest knows no stanza '{self.stanza}'", hint="pgbackrest info")
        told: dict[str, Any] = found[0]
        return told

    def _database(self, told: Mapping[str, Any], of: Mapping[str, Any]) -> tuple[str, int]:
        """Return version and system identifier of the cluster that a backup is of."""
        for one in told["db"]:
            if (one["id"], one.get("repo-key")) == (of["id"], of.get("repo-key")):
                return str(one["version"]), int(one["system-id"])
        raise BackupError(f"stanza '{self.stanza}' does not say of which cluster its backup is", hint="pgbackrest info")


@dataclass(frozen=True, slots=True)
class PgBackRestSource:
    """A backup of a stanza and a target, a restore point or a time."""

    stanza: PgBackRest
    binaries: Binaries
    target: Target
    choice: Choice

    @contextmanager
    def filled(self, data: Path, place: Place, progress: Progress) -> Iterator[Origin]:
        """Let pgBackRest restore into the folder, and keep the clone apart from its original.

        Errors: ``NotRestored`` where it finds damage by itself; ``ProgramError`` for the rest.
        """
        progress.step(f"pgbackrest restore of {self.choice.backup}")
        data.mkdir(mode=0o700)
        if place.owner is not None:
            os.chown(data, *place.owner)
        try:
            self.stanza.command("restore", *self._options(data))
        except ProgramError as exc:
            if exc.code not in _DAMAGE:
                raise
            raise NotRestored(f"pgBackRest does not restore it: {exc.tail}", hint="pgbackrest verify") from exc
        notes = self._set_apart(data, place)
        yield Origin(
            self.choice.backup,
            str(self.target),
            int(self.choice.facts["bytes"]),
            unverified="a backup of pgBackRest has no manifest of PostgreSQL's",
            notes=tuple(notes),
        )

    def _options(self, data: Path) -> list[str]:
        told = [
            f"--pg1-path={data}",
            f"--set={self.choice.backup}",
            f"--type={self.target.kind}",
            f"--target={self.target.value}",
            "--target-action=promote",
            "--archive-mode=off",
            f"--tablespace-map-all={data.parent / 'spaces'}",
            f"--lock-path={data.parent / 'lock'}",
            f"--cmd={self.stanza.program}",
        ]
        return told if self.target.timeline is None else [*told, f"--target-timeline={self.target.timeline}"]

    def _set_apart(self, data: Path, place: Place) -> list[str]:
        """Keep the recovery settings as pgBackRest has written them, and take out all that leads to the original."""
        auto = data / settings_file.AUTO
        recovery = [line for line in auto.read_text().splitlines() if line.startswith(_ITS_OWN)]
        told = settings_file.isolation(
            self.binaries.major, cluster_name=f"drill-{self.stanza.stanza}", listen="127.0.0.1", port=None
        )
        notes = settings_file.write_settings(data, told)
        apart.append(auto, recovery)
        if place.owner is not None:
            for name in (settings_file.AUTO, settings_file.MAIN, "pg_hba.conf", "pg_ident.conf"):
                with suppress(FileNotFoundError):
                    os.chown(data / name, *place.owner, follow_symlinks=False)
        return notes
