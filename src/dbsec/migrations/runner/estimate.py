"""What a migration will cost: WAL, disk, time and replica lag, by the sizes of the tables; guesses, with their formula.

==============  ==========================================  ==============================================
work            disk                                        WAL
==============  ==========================================  ==============================================
rewrite         table + its indexes, beside the old ones    the same: every page of the copy is logged
index build     index, and as much again while it sorts     the index
scan            nothing                                     nothing
row writes      a second version of each row, 16 bytes      each page once in full (after a checkpoint), and
                wider, and of its entry in each index       80 bytes beside each version and each entry
==============  ==========================================  ==============================================

An index is rows * (12 bytes + its key by pg_stats, in steps of 8) / 0.9. Time is that of ``stats.Rates``. A standby
lags by the time that its replay takes longer than the work. Need on disk: all of it, and the WAL that is kept at once.
Each statement finds the tables as those before it have left them: with more indexes, and twice as large after a write.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, LiteralString

import psycopg

from dbsec.migrations.effects.model import Effect, Task, Work
from dbsec.migrations.interpret import operations_of
from dbsec.migrations.names import Name
from dbsec.migrations.operations import AddConstraint, CreateIndex
from dbsec.migrations.statement import Statement
from dbsec.migrations.stats import Stats, TableStats

PER_VERSION = 80  # bytes of WAL beside a row version or an index entry; see tests/integration/test_runner_plan.py
KEY_BYTES = 16  # of a column that pg_stats does not know
REPLAY = 50 << 20  # bytes a second that a standby replays
_ENTRY, _FILL = 12, 0.9

_WIDTHS: LiteralString = """
SELECT schemaname, tablename, attname, avg_width FROM pg_catalog.pg_stats WHERE schemaname = %s AND tablename = %s
"""
_INDEXES: LiteralString = """
SELECT n.nspname, c.relname, pg_catalog.count(*) FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') GROUP BY 1, 2
"""
_PLACES: LiteralString = """
SELECT n.nspname, c.relname, coalesce(t.spcname, 'pg_default') FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_tablespace t ON t.oid = CASE c.reltablespace WHEN 0 THEN
       (SELECT dattablespace FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
       ELSE c.reltablespace END
 WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""
_KEPT: LiteralString = """
SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_wal_size')),
       pg_catalog.current_setting('archive_mode') <> 'off' OR EXISTS (SELECT FROM pg_catalog.pg_replication_slots),
       EXISTS (SELECT FROM pg_catalog.pg_stat_replication)
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """``disk``: bytes by tablespace. ``seconds`` None: a size is not known. ``lag_s`` None: no standby streams."""

    wal: int = 0
    disk: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = 0.0
    lag_s: float | None = None

    @property
    def disk_bytes(self) -> int:
        return sum(self.disk.values())

    def __add__(self, other: Cost) -> Cost:
        disk = {place: self.disk.get(place, 0) + other.disk.get(place, 0) for place in {*self.disk, *other.disk}}
        seconds = None if self.seconds is None or other.seconds is None else self.seconds + other.seconds
        lags = [lag for lag in (self.lag_s, other.lag_s) if lag is not None]
        return Cost(self.wal + other.wal, disk, seconds, max(lags) if lags else None)

    def to_json(self) -> dict[str, Any]:
        return {
            "wal_bytes": self.wal,
            "disk_bytes": dict(self.disk),
            "seconds": self.seconds,
            "replica_lag_s": self.lag_s,
        }


@dataclass(frozen=True)
class Server:
    """What the estimates rest on, read once. ``kept_wal``: bytes that a checkpoint leaves; ``keeps_all``: an archive or
    a slot may hold all WAL of a statement back; ``standbys``: whether one streams.

    ``sizes`` are those of ``stats``; they grow with what is estimated. ``written``: those that grew by row writes.
    """

    stats: Stats
    sizes: dict[Name, TableStats]
    widths: Mapping[Name, Mapping[str, int]]
    indexes: dict[Name, int]
    places: Mapping[Name, str]
    kept_wal: int
    keeps_all: bool
    standbys: bool
    written: set[Name] = field(default_factory=set)

    @classmethod
    def read(cls, connection: psycopg.Connection[Any], stats: Stats, tables: Iterable[Name]) -> Server:
        """Read sizes and settings; ``tables`` are those that are worked on."""
        widths: dict[Name, dict[str, int]] = {}
        for table in set(tables):
            for schema, name, column, width in connection.execute(_WIDTHS, [table.schema, table.name]):
                widths.setdefault(Name(schema, name), {})[column] = width
        indexes = {Name(schema, name): count for schema, name, count in connection.execute(_INDEXES)}
        places = {Name(schema, name): place for schema, name, place in connection.execute(_PLACES)}
        row = connection.execute(_KEPT).fetchone()
        assert row is not None
        sizes = dict(stats.tables)
        return cls(replace(stats, tables=sizes), sizes, widths, indexes, places, *row)

    def cost(self, statement: Statement | None, effect: Effect) -> Cost:
        """Estimate what a statement does to the tables that its effect names."""
        total = Cost(lag_s=0.0 if self.standbys else None)
        for task in effect.work:
            total += self._of(task, statement)
        return total

    def needed_wal(self, costs: Sequence[Cost]) -> int:
        """Return the WAL that lies on disk at once: a checkpoint's, and all of one statement where that is kept."""
        at_once = max((cost.wal for cost in costs), default=0) if self.keeps_all else 0
        return min(sum(cost.wal for cost in costs), self.kept_wal + at_once)

    def _of(self, task: Task, statement: Statement | None) -> Cost:
        size = self.stats.of(task.table)
        if size is None:
            return Cost(seconds=None)
        wal, disk = self._bytes(task, size, statement)
        seconds = self.stats.seconds(task.work, task.table) or 0.0
        self._grow(task, size, disk)
        lag = max(0.0, wal / REPLAY - seconds) if self.standbys else None
        return Cost(wal, {self.places.get(task.table, "pg_default"): disk} if disk else {}, seconds, lag)

    def _bytes(self, task: Task, size: TableStats, statement: Statement | None) -> tuple[int, int]:
        """Return WAL and disk of one task."""
        whole = size.bytes + size.index_bytes
        if task.work is Work.REWRITE:
            return whole, whole
        if task.work is Work.BUILD:
            index = self._index(task.table, size, statement)
            return index, 2 * index
        if task.work is Work.WRITE:
            entries = 1 + self.indexes.get(task.table, 0)
            wider = size.rows * KEY_BYTES
            return 2 * whole + wider + size.rows * entries * PER_VERSION, whole + wider
        return 0, 0

    def _grow(self, task: Task, size: TableStats, disk: int) -> None:
        """Leave the table to the next statement as this one does.

        Dead versions count once: the next one writes only the live rows anew, or n statements would cost 2^n.
        """
        if task.work is Work.BUILD:
            self.indexes[task.table] = self.indexes.get(task.table, 0) + 1
            self.sizes[task.table] = replace(size, index_bytes=size.index_bytes + disk // 2)
        elif task.work is Work.WRITE and task.table not in self.written:
            heap = disk - size.index_bytes
            self.sizes[task.table] = replace(size, bytes=size.bytes + heap, index_bytes=2 * size.index_bytes)
            self.written.add(task.table)

    def _index(self, table: Name, size: TableStats, statement: Statement | None) -> int:
        """Estimate the bytes of a new index; where its key is not known, all indexes there are."""
        keys = list(_keys(statement)) if statement is not None else []
        if not keys:
            return size.index_bytes
        widths = self.widths.get(table, {})
        total = 0.0
        for columns in keys:
            width = sum(widths.get(column, KEY_BYTES) for column in columns)
            total += size.rows * (_ENTRY + 8 * math.ceil(width / 8)) / _FILL
        return int(total)


def _keys(statement: Statement) -> Iterable[Sequence[str]]:
    for operation in operations_of(statement):
        if isinstance(operation, CreateIndex):
            yield [*operation.columns, *operation.include]
        elif isinstance(operation, AddConstraint) and operation.constraint.using_index is None:
            yield [*operation.constraint.columns, *operation.constraint.include]
