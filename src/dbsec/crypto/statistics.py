"""What PostgreSQL knows of a column before it is encrypted: how many rows and values, and how far one stands out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, LiteralString

from dbsec.errors import DbsecError, UsageError

if TYPE_CHECKING:
    import psycopg

__all__ = ["ColumnStatistics", "NoStatistics", "read"]

# Of a partitioned table the statistics of all its partitions, else those of the table alone.
_QUERY: LiteralString = """
SELECT c.reltuples,
       pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT') AS readable,
       pg_catalog.row_security_active(c.oid) AS hidden,
       s.n_distinct, s.null_frac, s.most_common_freqs[1] AS top, s.avg_width,
       coalesce(t.n_mod_since_analyze, 0) AS changed
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_catalog.pg_stats AS s
    ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
   AND s.inherited = (c.relkind = 'p')
  LEFT JOIN pg_catalog.pg_stat_all_tables AS t ON t.relid = c.oid
 WHERE n.nspname = %s AND c.relname = %s AND a.attname = %s
"""
_PARSED: LiteralString = "SELECT pg_catalog.parse_ident(%s)"


class NoStatistics(DbsecError):
    """A column of which the server tells nothing: never analyzed, or not to this role."""


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """The figures of a column, read from a server or given by hand.

    ``distinct`` counts values other than NULL. ``top_frequency`` is the share of the most frequent value among the rows
    that have one (0: none is known to stand out), ``null_fraction`` that of rows without. ``changed_rows``: written
    since the figures were taken. Errors: ``UsageError`` for what no column can have.
    """

    rows: int
    distinct: int
    top_frequency: float = 0.0
    null_fraction: float = 0.0
    changed_rows: int = 0
    width_bytes: int = 32

    def __post_init__(self) -> None:
        if self.rows < 1 or not 0 <= self.null_fraction < 1 or not 1 <= self.distinct <= math.ceil(self.filled):
            raise UsageError(
                f"{self.rows:,} rows cannot have {self.distinct:,} different values with {self.null_fraction:.1%} NULL"
            )
        if not 0 <= self.top_frequency <= 1:
            raise UsageError(f"the most frequent value cannot have {self.top_frequency:g} of the rows")
        # whatever was sampled, one of n values has at least the n-th part
        object.__setattr__(self, "top_frequency", max(self.top_frequency, 1 / self.distinct))

    @property
    def filled(self) -> float:
        """Rows that have a value."""
        return self.rows * (1 - self.null_fraction)

    @property
    def rows_per_value(self) -> float:
        """Rows that share a value, on the average."""
        return self.filled / self.distinct

    @property
    def min_entropy_bits(self) -> float:
        """How hard the likeliest guess is: minus log2 of its share. Source: NIST SP 800-90B, section 2."""
        return -math.log2(self.top_frequency)

    @property
    def stale(self) -> bool:
        """Tell whether more than a fifth of the rows were written since."""
        return self.changed_rows * 5 > self.rows

    def within(self, share: float) -> ColumnStatistics:
        """Return the figures of a part of the rows, as of one tenant: every tenant's index has a key of its own.

        It is taken as a random part: of a value with m rows, one at least is in it with probability 1 - (1 - share)^m.
        """
        if not 0 < share <= 1:
            raise UsageError(f"a tenant cannot have {share:g} of the rows")
        rows = max(1, round(self.rows * share))
        met = self.distinct * (1 - (1 - share) ** self.rows_per_value)
        most = max(1, math.floor(rows * (1 - self.null_fraction)))
        distinct = min(max(1, round(met)), most)
        return replace(self, rows=rows, distinct=distinct, changed_rows=round(self.changed_rows * share))


def read(connection: psycopg.Connection[Any], column: str) -> ColumnStatistics:
    """Read what the server knows of ``schema.table.column``, spelled as in SQL. PostgreSQL 15 to 18.

    Needs SELECT on the column, and no row-level security in force for this role: pg_stats shows nothing else.
    Errors: ``UsageError`` for a column that there is not; ``NoStatistics``. Source: PostgreSQL, view pg_stats.
    """
    schema, table, name = named(connection, column)
    found = _row(connection, [schema, table, name])
    if found is None:
        raise UsageError(f"there is no column '{column}'", hint=f"psql -c '\\d {schema}.{table}'")
    if not found["n_distinct"]:
        raise _nothing(found, column, f"{schema}.{table}")
    rows = max(1, round(found["reltuples"]))
    nulls = found["null_frac"]
    return ColumnStatistics(
        rows=rows,
        distinct=_distinct(found["n_distinct"], rows, nulls),
        top_frequency=min(1.0, (found["top"] or 0.0) / (1 - nulls)),
        null_fraction=nulls,
        changed_rows=found["changed"],
        width_bytes=found["avg_width"],
    )


def named(connection: psycopg.Connection[Any], column: str) -> tuple[str, str, str]:
    """Split ``schema.table.column`` as PostgreSQL reads it. Errors: ``UsageError``."""
    import psycopg

    try:
        row = connection.execute(_PARSED, [column]).fetchone()
    except psycopg.errors.InvalidParameterValue as exc:
        connection.rollback()
        raise UsageError(f"'{column}' is no name of a column", hint="app.users.email") from exc
    parts = row[0] if row else []
    if len(parts) != 3:
        raise UsageError(f"'{column}' does not name schema, table and column", hint="app.users.email")
    return parts[0], parts[1], parts[2]


def _row(connection: psycopg.Connection[Any], names: list[str]) -> dict[str, Any] | None:
    from psycopg.rows import dict_row

    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_QUERY, names).fetchone()


def _distinct(said: float, rows: int, nulls: float) -> int:
    """Read n_distinct: above zero a count, below a share of all rows, those with NULL among them."""
    count = said if said > 0 else -said * rows
    return min(max(1, round(count)), max(1, math.floor(rows * (1 - nulls))))


def _nothing(found: dict[str, Any], column: str, table: str) -> NoStatistics:
    if not found["readable"]:
        return NoStatistics(f"this role may not read '{column}', nor its statistics", hint=f"GRANT SELECT ON {table}")
    if found["hidden"]:
        return NoStatistics(
            f"row-level security is in force on '{table}': PostgreSQL hides its statistics", hint="ask as its owner"
        )
    if found["null_frac"] == 1:
        return NoStatistics(f"'{column}' is NULL in all rows: there is nothing to plan by")
    return NoStatistics(f"there are no statistics of '{column}'", hint=f"ANALYZE {table}")
