"""Takes the readings that the limits ask for, over a session of its own that is opened again where it was lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from dbsec.backfill import session
from dbsec.backfill.limits import ThrottleLimits
from dbsec.backfill.signals import SIGNALS, NotReadable, Reading, Source, asks_to_wait
from dbsec.clock import Clock
from dbsec.errors import ConnectError
from dbsec.pg import quoting

Connect = Callable[[], psycopg.Connection[Any]]

# Of the transaction alone: behind a pooler the session is the service's a moment later.
_SETTINGS = sql.SQL(
    "SELECT pg_catalog.set_config('search_path', 'pg_catalog', true),"
    " pg_catalog.set_config('statement_timeout', {}, true), pg_catalog.set_config('lock_timeout', {}, true)"
)


@dataclass(frozen=True, slots=True)
class Readings:
    """What was read at one moment: numbers by signal, and what ``wait_query`` said."""

    values: Mapping[str, Sequence[Reading]] = field(default_factory=dict)
    told_to_wait: bool = False


class Reader:
    """Reads the signals that have a limit. Not for two threads at once."""

    def __init__(self, limits: ThrottleLimits, connect: Connect, clock: Clock, *, table: str) -> None:
        self._limits = limits
        self._connect = connect
        self._checked: psycopg.Connection[Any] | None = None
        self._source = Source(table, limits.probe, limits.wait_query, limits.reading_timeout_ms, clock)

    def read(self) -> Readings:
        """Take one reading. Errors: ``NotReadable``, which never repeats what a query gave."""
        signal = "the server"
        try:
            source = self._opened()
            with source.connection.transaction():
                self._settle(source)
                source.mark()
                values = {}
                for signal in self._watched():
                    values[signal] = SIGNALS[signal](source)
                signal = "wait_query"
                return Readings(values, bool(source.wait_query) and asks_to_wait(source))
        except (psycopg.Error, ConnectError) as exc:
            self._drop_if_broken()
            raise _not_readable(signal, exc) from exc

    def close(self) -> None:
        """Close the session; the next reading opens another one."""
        connection, self._source.session = self._source.session, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def _watched(self) -> list[str]:
        return [signal for signal in SIGNALS if self._limits.watches(signal)]

    def _opened(self) -> Source:
        if self._source.session is None:
            self._source.session = self._connect()
            session.tame(self._source.session)
        return self._source

    def _settle(self, source: Source) -> None:
        timeout = str(self._limits.reading_timeout_ms)
        source.connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY")
        source.connection.execute(_SETTINGS.format(timeout, timeout))
        if source.connection is not self._checked:
            self._check_table()
            self._checked = source.connection

    def _check_table(self) -> None:
        named = {"lock_waits", "dead_share"} & set(self._watched())
        if named and self._source.number("SELECT pg_catalog.to_regclass(%(table)s) IS NULL"):
            raise NotReadable(f"there is no table '{self._source.table}' to watch for {min(named)}", lasting=True)

    def _drop_if_broken(self) -> None:
        connection = self._source.session
        if connection is not None and (connection.closed or connection.broken):
            self.close()


def _not_readable(signal: str, exc: psycopg.Error | ConnectError) -> NotReadable:
    code = exc.sqlstate or ""
    # 42: syntax, names, privileges. Its text speaks of the query; that of other classes may hold a row's value.
    lasting = code.startswith("42")
    said = ""
    if lasting and isinstance(exc, psycopg.Error) and not quoting.by_function(exc):
        said = f": {exc.diag.message_primary}"
    what = f"{type(exc).__name__}{f' {code}' if code else ''}{said}"
    return NotReadable(f"{signal} cannot be read: {what}", hint="see [migrations.backfill]", lasting=lasting)
