"""Attacks on an archive of WAL and base backups: what was damaged, lost or stolen must not pass for a backup."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from psycopg import sql

from dbsec import retry
from dbsec.backup.archives import Archive, Copy, Opened, Refused, outcome
from dbsec.evidence import Control, Drill, Observation, Outcome
from dbsec.pg import Conninfo, connect
from dbsec.pg.instance import Instance

DATABASE: Final = "dbsec_drill"
BATCHES: Final = 6
ROWS: Final = 1000
_HIT: Final = 3  # the batch whose segment is damaged
_REFS: Final = ("NIST SP 800-53 CP-9(1)", "NIST SP 800-53 SI-7")

ALTERED = Control(
    "BAK-ALTERED",
    "A restore from an archive that was altered is refused, never opened short",
    "PostgreSQL takes a damaged segment for the end of the log, opens for writing, and the rows after it are gone",
    (*_REFS, "OWASP A08:2021"),
)
HOLE = Control(
    "BAK-HOLE",
    "A restore from an archive with a hole is refused, never opened short",
    "restore_command answers 1 for a file that is lost, which means: here the log ends",
    _REFS,
)
STOLEN = Control(
    "BAK-STOLEN",
    "A stolen archive tells nothing and starts nowhere",
    "whoever has the disk or the bucket has every row of every tenant",
    ("NIST SP 800-53 CP-9(8)", "OWASP A02:2021", "NIST SP 800-53 SC-28(1)"),
)


@dataclass(slots=True)
class ArchiveTarget:
    """What is attacked. ``admin`` reaches the server, ``clone`` a server that was made from a backup of it.

    ``folder`` is where copies may lie, which the server's account may enter. ``secret`` is text that stands in a table.
    """

    archive: Callable[[], Archive]
    admin: Callable[[], Conninfo]
    clone: Callable[[Instance], Conninfo]
    folder: Path
    secret: Callable[[], bytes]
    marks: dict[str, list[str]] = field(default_factory=dict)


def drills(target: ArchiveTarget) -> tuple[Drill, ...]:
    """Return the attacks; each works on a copy, and none touches the archive."""
    return (
        Drill(ALTERED, "flip one bit of an archived segment", lambda: _attacked(target, _flip)),
        Drill(ALTERED, "zero the end of an archived segment", lambda: _attacked(target, _zero)),
        Drill(ALTERED, "put another segment in its place", lambda: _attacked(target, _swap)),
        Drill(HOLE, "lose one segment in the middle", lambda: _attacked(target, _lose)),
        Drill(STOLEN, "start a server from a stolen archive", lambda: _started(target)),
        Drill(STOLEN, "search a stolen archive for one row", lambda: _searched(target)),
    )


def mark(target: ArchiveTarget, archive: Archive) -> list[str]:
    """Write batches of rows, each into a segment of its own, and wait until they are archived; returns the segments."""
    if archive.name in target.marks:
        return target.marks[archive.name]
    admin = target.admin()
    _make_table(admin)
    segments = []
    with connect(admin.but(dbname=DATABASE)) as session:
        for batch in range(1, BATCHES + 1):
            session.execute(
                "INSERT INTO marks SELECT %s, n, md5(random()::text) FROM generate_series(1, %s) n", (batch, ROWS)
            )
            row = session.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").fetchone()
            segments.append(str(row[0]) if row else "")
            session.execute("SELECT pg_switch_wal()")
    retry.wait_until(lambda: all(map(archive.has, segments)), within_s=120, what="the segments to be archived")
    target.marks[archive.name] = segments
    return segments


def _make_table(admin: Conninfo) -> None:
    with connect(admin) as session:
        session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(DATABASE)))
        session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    with connect(admin.but(dbname=DATABASE)) as session:
        session.execute("CREATE TABLE marks (batch int, n int, filler text)")


Damage = Callable[[Copy, list[str]], str]


def _flip(copy: Copy, segments: list[str]) -> str:
    """Flip a bit in the rows of the batch, or in the middle of what holds them."""
    path = copy.place(segments[_HIT - 1])
    raw = bytearray(path.read_bytes())
    raw[_live(raw)] ^= 1
    path.write_bytes(raw)
    return "one bit flipped"


def _live(raw: bytearray) -> int:
    """Find a byte that counts: a segment that was switched early is zero from some point on."""
    return len(raw.rstrip(b"\0")) // 2


def _zero(copy: Copy, segments: list[str]) -> str:
    """Leave zeros from the middle on. PostgreSQL itself refuses a file that is shorter than a segment."""
    path = copy.place(segments[_HIT - 1])
    raw = path.read_bytes()
    path.write_bytes(raw[: _live(bytearray(raw))].ljust(len(raw), b"\0"))
    return "zero from its middle on, as a copy that a crash cut short"


def _swap(copy: Copy, segments: list[str]) -> str:
    shutil.copyfile(copy.place(segments[_HIT - 2]), copy.place(segments[_HIT - 1]))
    return "replaced by the one before it"


def _lose(copy: Copy, segments: list[str]) -> str:
    copy.place(segments[_HIT - 1]).unlink()
    return "missing, with later ones there"


def _attacked(target: ArchiveTarget, damage: Damage) -> Observation:
    archive = target.archive()
    segments = mark(target, archive)
    with _work(target, damage.__name__.strip("_")) as work:
        copy = archive.copied(work)
        done = damage(copy, segments)
        return _judged(archive, segments[_HIT - 1], done, outcome(copy, work / "data", target.clone, _count))


@contextmanager
def _work(target: ArchiveTarget, name: str) -> Iterator[Path]:
    """Make a folder for one attack, and take it away."""
    work = target.folder / f"attack-{name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o755)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _judged(archive: Archive, segment: str, done: str, seen: Opened | Refused) -> Observation:
    wanted = BATCHES * ROWS
    facts = {"archive": archive.name, "segment": segment, "damage": done, "rows_written": wanted}
    if isinstance(seen, Refused) and not seen.why:
        return Observation(Outcome.ERROR, f"segment {done}: no server started, and nobody said why", facts)
    if isinstance(seen, Refused):
        return Observation(Outcome.PASS, f"segment {done}: refused: {seen.why}", {**facts, "reason": seen.why})
    facts["rows_restored"] = seen.rows
    if seen.rows == wanted:
        return Observation(Outcome.ERROR, f"segment {done}, and every row is there: nothing was attacked", facts)
    return Observation(
        Outcome.FAIL, f"segment {done}: opened for writing with {seen.rows:,} of {wanted:,} rows, no word said", facts
    )


def _count(login: Conninfo) -> int:
    with connect(login.but(dbname=DATABASE)) as session:
        row = session.execute("SELECT count(*) FROM marks").fetchone()
        return int(row[0]) if row else 0


def _started(target: ArchiveTarget) -> Observation:
    archive = target.archive()
    mark(target, archive)
    with _work(target, "stolen") as work:
        seen = outcome(archive.stolen(work), work / "data", target.clone, _count)
    facts = {"archive": archive.name}
    if isinstance(seen, Opened):
        summary = f"it started, without any key, with {seen.rows:,} rows"
        return Observation(Outcome.FAIL, summary, {**facts, "rows_restored": seen.rows})
    if not seen.why:
        return Observation(Outcome.ERROR, "no server started, and nobody said why", facts)
    return Observation(Outcome.PASS, f"refused: {seen.why}", {**facts, "reason": seen.why})


def _searched(target: ArchiveTarget) -> Observation:
    archive = target.archive()
    mark(target, archive)
    wanted, files, found = target.secret(), 0, 0
    with _work(target, "searched") as work:
        for path in archive.stolen(work).everything():
            files += 1
            found += path.read_bytes().count(wanted)
    facts = {"archive": archive.name, "files": files, "found": found}
    if not files:
        return Observation(Outcome.ERROR, f"{archive.name} has no file", facts)
    if found:
        return Observation(Outcome.FAIL, f"one row stands in clear {found} times in {files:,} files", facts)
    return Observation(Outcome.PASS, f"nothing of it in {files:,} files", facts)
