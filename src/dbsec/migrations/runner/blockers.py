"""Who stands in the way of a lock, told without what their queries say of rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name

Wanted = tuple[Name, LockMode]

# explicit-locking, table 13.2: what each mode waits for
_CONFLICTS = {
    1: (8,),
    2: (7, 8),
    3: (5, 6, 7, 8),
    4: (4, 5, 6, 7, 8),
    5: (3, 4, 6, 7, 8),
    6: (3, 4, 5, 6, 7, 8),
    7: (2, 3, 4, 5, 6, 7, 8),
    8: (1, 2, 3, 4, 5, 6, 7, 8),
}
_MODES = {mode.pg_locks: mode for mode in LockMode}
_COMMENT = re.compile(r"\s*(?:/\*.*?\*/|--[^\n]*(?:\n|\Z))", re.DOTALL)
_WORDS = re.compile(r"\s*([A-Za-z_][\w$.]*(?:\s+[A-Za-z_*][\w$.]*){0,3})")
# a word in which a value could hide ends what is shown: PASSWORD x, TO x, a number, a quote
_ENDS = re.compile(r"(?<=\s)(?:values|set|where|password|to|as|in|like|limit|using|from\s+stdin)\b.*", re.IGNORECASE)

_COLUMNS: LiteralString = """
a.usename, a.application_name, a.state, coalesce(a.xact_start, p.prepared), a.query, p.gid, p.owner,
a.pid IS NOT NULL AND a.usesysid IS NULL, l.virtualtransaction, l.granted
"""
# A prepared transaction has no process; the lock on its own number leads to its name.
_PREPARED: LiteralString = """
prepared AS (
  SELECT x.*, t.virtualtransaction FROM pg_catalog.pg_prepared_xacts x
    JOIN pg_catalog.pg_locks t ON t.locktype = 'transactionid' AND t.pid IS NULL AND t.transactionid = x.transaction
)
"""
_BY_TABLE: LiteralString = """
WITH {prepared}
SELECT l.pid, n.nspname, c.relname, l.mode, {columns}
  FROM pg_catalog.pg_locks l
  JOIN ROWS FROM (pg_catalog.unnest(%(oids)s::oid[]), pg_catalog.unnest(%(modes)s::text[])) AS wanted (oid, mode)
    ON wanted.oid = l.relation AND wanted.mode = l.mode
  JOIN pg_catalog.pg_class c ON c.oid = l.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN prepared p ON l.pid IS NULL AND l.virtualtransaction = p.virtualtransaction
 WHERE l.locktype = 'relation' AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
 ORDER BY l.granted DESC, coalesce(a.xact_start, p.prepared), l.mode
"""
# Whom a backend waits for. Of a prepared transaction pg_blocking_pids says 0. pg_stat_progress_create_index says
# current_locker_pid beside it, and of a prepared one that is a lie: whoever has the slot of its old session.
_BY_PID: LiteralString = """
WITH {prepared}, waiting AS (SELECT * FROM pg_catalog.pg_locks WHERE pid = %(pid)s AND NOT granted),
blocking (pid) AS (
  SELECT pg_catalog.unnest(pg_catalog.pg_blocking_pids(%(pid)s))
), l AS (
  SELECT pid, NULL::oid AS relation, NULL::text AS mode, ''::text AS virtualtransaction, true AS granted
    FROM blocking WHERE pid <> 0
  UNION ALL
  SELECT DISTINCT NULL::int, h.relation, h.mode, h.virtualtransaction, true
    FROM waiting w JOIN pg_catalog.pg_locks h ON h.granted AND h.pid IS NULL AND h.locktype = w.locktype
     AND h.database IS NOT DISTINCT FROM w.database AND h.relation IS NOT DISTINCT FROM w.relation
     AND h.transactionid IS NOT DISTINCT FROM w.transactionid AND h.virtualxid IS NOT DISTINCT FROM w.virtualxid
)
SELECT l.pid, n.nspname, c.relname, l.mode, {columns}
  FROM l LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN prepared p ON l.pid IS NULL AND l.virtualtransaction = p.virtualtransaction
 ORDER BY coalesce(a.xact_start, p.prepared)
"""


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session or (``pid`` None) a prepared transaction ``gid`` that holds what was asked for.

    ``query``: its first words, without literals. ``state``, ``since`` and ``query`` are empty where our login may not
    see them (pg_read_all_stats). ``granted`` False: it waits for the same lock, before us.
    """

    pid: int | None
    user: str
    application_name: str
    state: str
    since: datetime | None
    query: str
    gid: str = ""
    table: Name | None = None
    mode: LockMode | None = None
    autovacuum: bool = False
    wraparound: bool = False
    transaction: str = ""
    granted: bool = True

    @property
    def idle(self) -> bool:
        """True where it is in a transaction and does nothing: to cancel it changes nothing."""
        return self.state.startswith("idle in transaction")

    @property
    def end_it(self) -> str:
        """Return the next command: what ends it."""
        if self.gid:
            literal = "'" + self.gid.replace("'", "''") + "'"
            return f"ROLLBACK PREPARED {literal}  -- or COMMIT PREPARED, in the same database"
        if self.wraparound:
            return "wait: this autovacuum prevents wraparound, and would begin again"
        act = "pg_cancel_backend" if self.autovacuum or self.state == "active" else "pg_terminate_backend"
        return f"SELECT {act}({self.pid})"

    def __str__(self) -> str:
        since = f" since {self.since:%Y-%m-%d %H:%M:%S}Z" if self.since else ""
        held = f", {self.mode.sql} on '{self.table}'" if self.mode and self.table else ""
        if self.gid:
            return f"prepared transaction '{self.gid}' of '{self.user}'{since}{held}"
        if self.autovacuum:
            return f"autovacuum (pid {self.pid}){' against wraparound' if self.wraparound else ''}{since}{held}"
        named = f" ({self.application_name})" if self.application_name else ""
        said = f": {self.query} …" if self.query else ""
        state = f"{self.state}{since}" if self.granted else f"waits itself{since}"
        return f"pid {self.pid} of '{self.user}'{named}{held}, {state or 'hidden from us'}{said}"


@contextmanager
def looking(connection: psycopg.Connection[Any]) -> Iterator[psycopg.Cursor[tuple[Any, ...]]]:
    """Give a cursor in a read-only transaction (a part of ours, where one is open) that no search_path can mislead."""
    with connection.transaction(force_rollback=True), connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SET LOCAL search_path = pg_catalog, pg_temp", prepare=False)
        yield cursor


def blockers(connection: psycopg.Connection[Any], what: Sequence[Wanted] | int) -> list[Blocker]:
    """List who holds locks that conflict with ``what``: tables with the mode that is wanted, or a backend that waits.

    Each session or prepared transaction once, those that hold before those that wait, the oldest first.
    """
    if isinstance(what, int):
        with looking(connection) as cursor:
            return _each_once(cursor.execute(_query(_BY_PID), {"pid": what}))
    with looking(connection) as cursor:
        known = [(oid, mode) for name, mode in what if (oid := oid_of(cursor, name)) is not None]
    return holding(connection, known)


def holding(connection: psycopg.Connection[Any], wanted: Iterable[tuple[int, LockMode]]) -> list[Blocker]:
    """List who holds what conflicts, by the relation's oid."""
    pairs = [(oid, LockMode(other).pg_locks) for oid, mode in wanted for other in _CONFLICTS[mode]]
    if not pairs:
        return []
    with looking(connection) as cursor:
        oids, modes = [oid for oid, _ in pairs], [mode for _, mode in pairs]
        return _each_once(cursor.execute(_query(_BY_TABLE), {"oids": oids, "modes": modes}))


def oid_of(cursor: psycopg.Cursor[tuple[Any, ...]], name: Name) -> int | None:
    """Look a relation up by schema and name; None where there is none."""
    query: LiteralString = """
    SELECT c.oid::bigint FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relname = %s AND n.nspname = %s
    """
    row = cursor.execute(query, (name.name, name.schema or "public")).fetchone()
    return None if row is None else int(row[0])


def first_words(query: str) -> str:
    """Return the first words of a query, up to what may be a value."""
    text = query
    while (comment := _COMMENT.match(text)) and comment.end():
        text = text[comment.end() :]
    found = _WORDS.match(text)
    return _ENDS.sub("", f"{found[1]} ").strip() if found else ""


def _query(text: LiteralString) -> sql.Composed:
    return sql.SQL(text).format(columns=sql.SQL(_COLUMNS), prepared=sql.SQL(_PREPARED))


def _each_once(rows: Iterable[tuple[Any, ...]]) -> list[Blocker]:
    found: dict[object, Blocker] = {}
    for row in rows:
        one = _blocker(row)
        found.setdefault(one.pid if one.pid is not None else one.transaction, one)
    return list(found.values())


def _blocker(row: tuple[Any, ...]) -> Blocker:
    pid, place, table, mode, user, name, state, since, query, gid, owner, own, transaction, granted = row
    text = str(query or "")
    autovacuum = bool(own) or text.startswith("autovacuum:")
    return Blocker(
        pid,
        str(user or owner or ""),
        str(name or ""),
        str(state or ""),
        since.astimezone(UTC) if since else None,
        "" if autovacuum else first_words(text),
        str(gid or ""),
        Name(place, table) if table else None,
        _MODES.get(mode),
        autovacuum,
        "to prevent wraparound" in text,
        str(transaction or ""),
        bool(granted),
    )
