"""Where a phone or an e-mail address stands in clear: files of the cluster, logs, standby, a new base backup, WAL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.sql import SQL, Identifier

from dbsec import retry
from dbsec.clock import SYSTEM
from dbsec.demo.baseline import OLD_ARCHIVE, OLD_BACKUP, base_backup
from dbsec.demo.stage import Stage
from dbsec.errors import LabError
from dbsec.evidence import Control, Observation, Outcome
from dbsec.migrations import residue, residue_places
from dbsec.migrations.residue import Canary, Place, Searched
from dbsec.secret import Secret

GONE = Control(
    "MIG-PLAINTEXT",
    "What was encrypted is gone from the disk, from standbys and from every new backup",
    "the column was dropped, and its values still stand in the table's file and in each backup that is taken of it",
    ("NIST SP 800-88", "NIST SP 800-53 MP-6", "OWASP A02:2021"),
)
KEEP_DAYS = 14
_BEHIND: LiteralString = """
SELECT bool_and(replay_lsn >= (SELECT pg_current_wal_flush_lsn())) FROM pg_stat_replication WHERE state = 'streaming'
"""
# They are not rewritten: they expire.
_EXPIRING = ("wal", "old archive", "old backup")


def look(stage: Stage, column: LiteralString = "phone") -> Observation:
    """Search for the phone of one user, or the e-mail address; PASS where only what expires still has it."""
    with stage.admin() as admin:
        canary = Canary.of(_canary(stage, admin, column).reveal())
        residue_places.written_out(admin)
        retry.wait_until(lambda: _replayed(admin), within_s=30, what="the standby to replay what was changed")
        found = residue.search([canary], _places(stage, admin), caveats=residue_places.caveats(admin))
    return _judged(found, column)


def _judged(found: Searched, column: str) -> Observation:
    kinds = found.kinds
    live = {kind: count for kind, count in kinds.items() if kind not in _EXPIRING}
    kept = {kind: count for kind, count in kinds.items() if kind in _EXPIRING}
    until = (SYSTEM.now() + timedelta(days=KEEP_DAYS)).date().isoformat()
    facts = {"files": found.files, "bytes": found.size_bytes, "found": kinds, "unread": found.unread, "expires": until}
    rows = [[trace.kind, trace.place, trace.form, trace.count] for trace in found.traces]
    columns = ["kind", "file", "form", "times"]
    table = {
        "type": "table",
        "title": f"Where the {column} of one user stands in clear",
        "columns": columns,
        "rows": rows,
    }
    if found.unread:
        return Observation(Outcome.ERROR, f"{len(found.unread)} files could not be read: {found.unread[0]}", facts)
    if live:
        summary = f"one {column} stands in clear {sum(live.values())} times: {_listed(live)}"
        return Observation(Outcome.FAIL, summary, facts, [table])
    summary = f"in none of {found.files:,} files" + (
        f", but for what expires by {until}: {_listed(kept)}" if kept else ""
    )
    return Observation(Outcome.PASS, summary, facts, [table] if rows else [])


def _places(stage: Stage, admin: psycopg.Connection[Any]) -> Iterator[Place]:
    lab = stage.lab
    fresh = lab.site.subfolder(f"backup-{SYSTEM.now():%H%M%S%f}")
    base_backup(stage, fresh)
    yield from residue_places.of_cluster(admin, lab.primary.data)
    yield from residue_places.of_server(admin)
    yield from residue.files_below(lab.standby.data, _standby, "standby ")
    yield from residue_places.of_copy(fresh, "new backup")
    yield from residue_places.of_copy(lab.folder / "logs", "log")
    yield from residue_places.of_copy(lab.folder / OLD_BACKUP, "old backup")
    yield from residue_places.of_copy(lab.folder / OLD_ARCHIVE, "old archive")


def _replayed(admin: psycopg.Connection[Any]) -> bool:
    row = admin.execute(_BEHIND).fetchone()
    return bool(row and row[0])


def _standby(below: Path) -> str:
    return "wal" if below.parts[0] == "pg_wal" else "standby"


def _canary(stage: Stage, admin: psycopg.Connection[Any], column: LiteralString) -> Secret:
    if column not in stage.canaries:
        row = admin.execute(SQL("SELECT {} FROM app.users ORDER BY id LIMIT 1").format(Identifier(column))).fetchone()
        if row is None:
            raise LabError(f"there is no {column} to look for")
        stage.canaries[column] = Secret(row[0])
    return stage.canaries[column]


def _listed(kinds: dict[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
