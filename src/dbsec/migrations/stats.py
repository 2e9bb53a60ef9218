"""How large and how busy the tables are, so that a verdict can say how long it would block."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.errors import ConfigError, NewerFormat, reason
from dbsec.migrations.effects.model import Work
from dbsec.migrations.names import Name

if TYPE_CHECKING:
    import psycopg

MAGIC = "dbsec-stats"
VERSION = 1
TINY_ROWS = 10_000
TINY_BYTES = 1 << 20
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Rates:
    """What a server does in a second. Rows for what works row by row, bytes of the table for what reads or writes it.

    ``index_bytes``: an index built again by a rewrite. The numbers here were measured by ``benchmarks/blocking.py``
    on two cores with the table in the cache and no other load: a busy server, or one that reads from its disk, is
    slower. A snapshot's file may hold a server's own.
    """

    # python benchmarks/blocking.py, PostgreSQL 17, 1,000,000 rows of 118 bytes, median of 5, rounded down
    rewrite_bytes: float = 220 * _MIB
    scan_bytes: float = 2500 * _MIB
    fk_rows: float = 5_400_000
    build_rows: float = 1_300_000
    index_bytes: float = 60 * _MIB
    write_rows: float = 700_000


@dataclass(frozen=True, slots=True)
class TableStats:
    """``rows`` is the planner's estimate. ``bytes``: the table with TOAST; ``index_bytes``: all its indexes.

    Writes are rows, reads are scans that were begun; None where nothing was measured.
    """

    rows: int
    bytes: int
    index_bytes: int = 0
    writes_per_s: float | None = None
    reads_per_s: float | None = None

    @property
    def tiny(self) -> bool:
        """True where no work on it takes long enough to be noticed."""
        return self.rows <= TINY_ROWS and self.bytes <= TINY_BYTES


@dataclass(frozen=True, slots=True)
class Stats:
    """``tables`` by schema and name; ``source`` names the server that they are of."""

    tables: Mapping[Name, TableStats]
    taken_at: str = ""
    source: str = ""
    major: int | None = None
    interval_s: float = 0.0
    rates: Rates = field(default_factory=Rates)

    @classmethod
    def load(cls, path: Path) -> Stats:
        """Read what ``dump`` wrote. Errors: ``ConfigError``, ``NewerFormat``."""
        try:
            body: Any = json.loads(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise ConfigError(f"cannot read '{path}': {exc.strerror}", hint=_HINT) from exc
        except ValueError as exc:
            raise ConfigError(f"'{path}' is not JSON: {reason(exc)}", hint=_HINT) from exc
        if not isinstance(body, dict) or body.get("magic") != MAGIC:
            raise ConfigError(f"'{path}' is no snapshot of tables", hint=_HINT)
        if isinstance(body.get("version"), int) and body["version"] > VERSION:
            raise NewerFormat(f"'{path}'", found=body["version"], known=VERSION)
        try:
            return cls._of(body)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise ConfigError(f"'{path}' is damaged: {type(exc).__name__} {reason(exc)}", hint=_HINT) from exc

    @classmethod
    def _of(cls, body: Mapping[str, Any]) -> Stats:
        names = [one.name for one in fields(TableStats)]
        tables = {
            Name(str(one["schema"]), str(one["name"])): TableStats(**{name: one[name] for name in names if name in one})
            for one in body["tables"]
        }
        for table in tables.values():
            if table.rows < 0 or table.bytes < 0 or table.index_bytes < 0:
                raise ValueError("a size below zero")
        rates = Rates(**{name: float(value) for name, value in body.get("rates", {}).items()})
        if min(asdict(rates).values()) <= 0:
            raise ValueError("a rate that is not above zero")
        told = {name: body[name] for name in ("taken_at", "source", "major", "interval_s") if name in body}
        return cls(tables, rates=rates, **told)

    def dump(self) -> str:
        """Write as JSON.

        Shape: ``{"magic", "version", "taken_at", "source", "major", "interval_s", "rates": {}, "tables": [{"schema",
        "name", "rows", "bytes", "index_bytes", "writes_per_s", "reads_per_s"}]}``.
        """
        tables = [{**name._asdict(), **asdict(table)} for name, table in sorted(self.tables.items(), key=str)]
        head = {"magic": MAGIC, "version": VERSION, "taken_at": self.taken_at, "source": self.source}
        rest = {"major": self.major, "interval_s": self.interval_s, "rates": asdict(self.rates), "tables": tables}
        return json.dumps({**head, **rest}, indent=1, ensure_ascii=False) + "\n"

    def of(self, table: Name) -> TableStats | None:
        """Find a table; one without a schema by its name alone where only one has it."""
        if table.schema is not None:
            return self.tables.get(table)
        found = [stats for name, stats in self.tables.items() if name.name == table.name]
        return found[0] if len(found) == 1 else None

    def seconds(self, work: Work, table: Name) -> float | None:
        """Estimate how long a piece of work takes; None where the table is not in the snapshot."""
        if (size := self.of(table)) is None:
            return None
        rates = self.rates
        match work:
            case Work.REWRITE:
                return size.bytes / rates.rewrite_bytes + size.index_bytes / rates.index_bytes
            case Work.SCAN:
                return size.bytes / rates.scan_bytes
            case Work.FK_SCAN:
                return size.rows / rates.fk_rows
            case Work.BUILD:
                return size.rows / rates.build_rows
            case Work.WRITE:
                return size.rows / rates.write_rows

    def told(self, table: Name, works: Iterable[Work]) -> str:
        """Say how long, of what size and how busy: ``app.users: about 4 s, 1.2 M rows, 118 MiB, 350 writes/s``."""
        if (size := self.of(table)) is None:
            return ""
        seconds = sum(self.seconds(work, table) or 0.0 for work in works)
        parts = [f"about {duration(seconds)}"] if seconds else []
        parts += [f"{number(size.rows)} rows", amount(size.bytes)]
        if size.writes_per_s is not None:
            parts.append(f"{number(size.writes_per_s)} writes/s")
        return f"{table}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """``4 s``, ``20 min``, ``3 h``; what is not noticed is ``less than 1 s``."""
    if seconds < 1:
        return "less than 1 s"
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def number(value: float) -> str:
    """``350``, ``12 k``, ``1.2 M``, ``3 G``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if value >= size:
            scaled = value / (1e3 if unit == "k" else size)
            return f"{scaled:.1f} {unit}" if scaled < 10 else f"{scaled:.0f} {unit}"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def amount(size: int) -> str:
    """``8 KiB``, ``118 MiB``, ``4.2 GiB``."""
    for unit, step in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", _MIB)):
        if size >= step:
            return f"{size / step:.1f} {unit}" if size < 10 * step else f"{size / step:.0f} {unit}"
    return f"{size / 1024:.0f} KiB"


def snapshot(connection: psycopg.Connection[Any], interval_s: float = 10.0, *, clock: Clock = SYSTEM) -> Stats:
    """Read sizes and row estimates, and how many rows are written and scans begun in ``interval_s`` seconds.

    Partitioned tables get the sum of their partitions. Transaction: two short ones, read only; ``connection`` is in
    autocommit. Locks: ACCESS SHARE on each table for a moment, waited for 2 s at most. Errors: ``psycopg.Error``.
    """
    start, before = clock.monotonic(), _read(connection)
    clock.sleep(interval_s)
    after = _read(connection)
    lasted = max(clock.monotonic() - start, 1e-3)
    tables = {}
    for name, seen in after.items():
        was = before.get(name, seen)
        writes, reads = (max(seen[key] - was[key], 0) / lasted for key in ("writes", "reads"))
        tables[name] = TableStats(seen["rows"], seen["bytes"], seen["index_bytes"], round(writes, 2), round(reads, 2))
    info = connection.info
    source = f"{info.dbname} at {info.host}:{info.port}"
    return Stats(tables, rfc3339(clock.now()), source, info.server_version // 10000, round(lasted, 1))


def _read(connection: psycopg.Connection[Any]) -> dict[Name, dict[str, int]]:
    with connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        connection.execute("SET LOCAL lock_timeout = '2s'")
        connection.execute("SET LOCAL search_path = pg_catalog")
        found = connection.execute(_TABLES)
        names = [column.name for column in found.description or ()][2:]
        return {Name(schema, name): dict(zip(names, map(int, rest), strict=True)) for schema, name, *rest in found}


# A leaf counts for each partitioned table above it; pg_partition_ancestors gives the table itself too, and nothing for
# one that is no partition.
_TABLES = """
WITH leaf AS (
    SELECT c.oid, greatest(CASE WHEN c.reltuples < 0 THEN s.n_live_tup ELSE c.reltuples END, 0) AS rows,
           pg_table_size(c.oid) AS bytes, pg_indexes_size(c.oid) AS index_bytes,
           coalesce(s.n_tup_ins + s.n_tup_upd + s.n_tup_del, 0) AS writes,
           coalesce(s.seq_scan, 0) + coalesce(s.idx_scan, 0) AS reads
    FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
    WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
), counted AS (
    SELECT leaf.*, above.relid AS table_oid FROM leaf, pg_partition_ancestors(leaf.oid) AS above(relid)
    UNION ALL
    SELECT leaf.*, leaf.oid FROM leaf WHERE NOT EXISTS (SELECT FROM pg_partition_ancestors(leaf.oid))
)
SELECT n.nspname, c.relname, sum(rows)::bigint AS rows, sum(bytes)::bigint AS bytes,
       sum(index_bytes)::bigint AS index_bytes, sum(writes)::bigint AS writes, sum(reads)::bigint AS reads
FROM counted JOIN pg_class c ON c.oid = counted.table_oid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
GROUP BY n.nspname, c.relname ORDER BY n.nspname, c.relname
"""
_HINT = "dbsec migrate snapshot --dsn env:DSN --output stats.json"
