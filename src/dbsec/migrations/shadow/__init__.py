"""Writes a live table anew without a window: into a shadow that triggers keep in step, then a swap of milliseconds.

What an old row held does not come along: the shadow has the columns of today. Locks: for a moment each, by NOWAIT
turns, SHARE ROW EXCLUSIVE on the table and those that it references, and for the swap ACCESS EXCLUSIVE on the table,
those that it references and those that reference it. Cost: its size once more in disk and WAL; every write is done
twice. A standby may show a query with an older snapshot the table of after the swap, empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
from psycopg.sql import SQL, Composable

from dbsec.backfill.worker import Waits
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ApplyError
from dbsec.migrations import horizon
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.rewrite import Rewritten, cleaned
from dbsec.migrations.runner import locking
from dbsec.migrations.runner.limits import Limits
from dbsec.migrations.runner.pursuit import Told
from dbsec.migrations.shadow import copying, facts, making, swapping
from dbsec.migrations.shadow.facts import Facts, refusals
from dbsec.migrations.shadow.turn import in_turn
from dbsec.pg import advisory
from dbsec.progress import Progress

__all__ = ["abort", "online", "refusals"]

_BARE = "SELECT relname FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass(%s)"
_MARK = "SELECT pg_catalog.obj_description(pg_catalog.to_regclass(%s), 'pg_class')"
_LONG = SQL("SET LOCAL statement_timeout = {}; SET LOCAL search_path = pg_catalog, pg_temp")
_KEPT = "SELECT count(*) FROM pg_catalog.pg_trigger WHERE tgrelid = %s AND tgname LIKE 'zz\\_dbsec\\_shadow\\_%%'"


def online(
    connection: psycopg.Connection[Any],
    table: Name,
    *,
    keep: timedelta,
    progress: Progress,
    throttle: Waits | None = None,
    limits: Limits | None = None,
    told: Told | None = None,
    clock: Clock = SYSTEM,
) -> Rewritten:
    """Write a table anew while it is read and written; a run that broke off is gone on with, or ended by ``abort``.

    ``connection``: in autocommit, as a role that row-level security does not bind and that sees others' sessions.
    ``keep``: how long backups and archived WAL are kept. Errors: ``ApplyError`` for a table that has what it does not
    make again, that was changed meanwhile, or whose copy is not the same; ``LockNotTaken``, ``GaveUp`` where others
    stand in the way, with everything left as it is.
    """
    begun = clock.monotonic()
    with _alone(connection, table):
        rewriting = _Rewriting(connection, table, progress, limits or Limits(), told, clock)
        if facts.oid_of(connection, Name(table.schema, rewriting.gone)) is None:
            rewriting.make()
            rewriting.fill(throttle)
            rewriting.swap()
        rewriting.end()
    left = cleaned(connection, progress=progress, clock=clock)
    now = clock.now()
    return Rewritten(str(table), "online", clock.monotonic() - begun, now, now + keep, tuple(left))


def abort(
    connection: psycopg.Connection[Any],
    table: Name,
    *,
    limits: Limits | None = None,
    told: Told | None = None,
    clock: Clock = SYSTEM,
) -> None:
    """Take the shadow and its triggers away; the table itself was never touched.

    Errors: ``ApplyError`` while the rewrite runs, and after the swap, which is only gone on with.
    """
    found = facts.read(connection, table)
    locks = [(found.name, LockMode.ACCESS_EXCLUSIVE), *((name, LockMode.ACCESS_EXCLUSIVE) for name in _away(found))]

    def act() -> None:
        _run(connection, [*making.unkeeping(found), *making.undone(found)])

    with _alone(connection, table):
        if facts.oid_of(connection, found.gone) is not None:
            hint = f"dbsec migrate rewrite {table} --apply"
            raise ApplyError(f"'{table}' was exchanged already: '{found.gone}' is what is left of it", hint=hint)
        in_turn(connection, f"the triggers of '{table}'", locks, act, limits=limits or Limits(), clock=clock, told=told)


@contextmanager
def _alone(connection: psycopg.Connection[Any], table: Name) -> Iterator[None]:
    """Hold the lock of a table's rewrite: a second one would copy in vain, an abort would take the shadow away."""
    lock = advisory.key("rewrite", str(table))
    if connection.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", (lock,)).fetchone() != (True,):
        who = ", ".join(map(str, advisory.holders(connection, lock)))
        raise ApplyError(
            f"'{table}' is being written anew by {who or 'another session'}", hint="wait for it, or end it"
        )
    try:
        yield
    finally:
        if not connection.closed and not connection.broken:
            connection.execute("SELECT pg_catalog.pg_advisory_unlock(%s)", (lock,))


class _Rewriting:
    """One rewrite, step by step; each may be run again."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        table: Name,
        progress: Progress,
        limits: Limits,
        told: Told | None,
        clock: Clock,
    ) -> None:
        self._connection, self._progress, self._limits = connection, progress, limits
        self._told, self._clock = told, clock
        self._facts = facts.read(connection, table)

    @property
    def gone(self) -> str:
        return self._facts.gone.name

    def make(self) -> None:
        """Make the shadow and let it follow, unless an earlier run has."""
        found, connection = self._facts, self._connection
        self._check_allowed()
        copying.check(connection, found)
        horizon.holders(connection)  # whether this role sees them, before hours of copying
        self._check_same()
        if facts.oid_of(connection, found.shadow) is None:
            self._progress.step(f"making '{found.shadow}'")
            # LIKE reads the table under ACCESS SHARE; its foreign keys lock what they point to
            self._turn(LockMode.SHARE_ROW_EXCLUSIVE, _away(found), self._shadow)
        if connection.execute(_KEPT, (found.oid,)).fetchone() == (0,):
            self._turn(LockMode.SHARE_ROW_EXCLUSIVE, [found.name], self._follow)

    def fill(self, throttle: Waits | None) -> None:
        """Copy the rows, and prove it. Errors: ``ApplyError`` where a row differs."""
        found, connection = self._facts, self._connection
        copying.copied(connection, found, throttle=throttle, progress=self._progress, clock=self._clock)
        connection.execute(SQL("ANALYZE {}").format(making.named(found.shadow)))
        self._progress.step("comparing both")
        if wrong := copying.differing(connection, found, progress=self._progress):
            raise ApplyError(
                f"{wrong:,} rows of '{found.shadow}' are not those of '{found.name}': nothing was exchanged",
                hint=f"dbsec migrate rewrite {found.name} --abort; then tell the makers of dbsec",
            )

    def swap(self) -> None:
        """Exchange both, once nobody can look at the table as it was before the copy.

        To a transaction that took its snapshot before a row was copied, the copy is not there: in REPEATABLE READ it
        would find the new table empty.
        """
        found = self._facts
        self._progress.step("waiting for those who look at the table as it was before the copy")
        horizon.wait(self._connection, within_s=self._limits.give_up_s, clock=self._clock)
        self._progress.step("exchanging both")
        self._turn(LockMode.ACCESS_EXCLUSIVE, swapping.locked(found), self._exchange)

    def end(self) -> None:
        """Prove the foreign keys that point here, and drop the old table."""
        found = facts.read(self._connection, self._facts.name)
        self._progress.step("proving foreign keys, dropping the old table")
        for statement in swapping.validated(found):
            with self._connection.transaction():
                self._connection.execute(_LONG.format(int(self._limits.long_s * 1000)))
                _run(self._connection, [statement])
        self._turn(LockMode.ACCESS_EXCLUSIVE, [found.gone], lambda: _run(self._connection, swapping.dropped(found)))

    def _shadow(self) -> None:
        _run(self._connection, [*making.table(self._facts), *making.foreign_keys(self._facts)])

    def _follow(self) -> None:
        self._check_same()
        _run(self._connection, making.keeping(self._facts))
        self._try()

    def _exchange(self) -> None:
        self._check_same()
        self._check_allowed()
        shadow = str(self._facts.shadow)
        identity = [row[0] for row in self._facts.columns if row[3]]
        own = "SELECT pg_catalog.pg_get_serial_sequence(%s, %s)"
        sequences = {name: self._one(own, shadow, name) for name in identity}
        bare = {row[0]: self._one(_BARE, row[7]) for row in self._facts.columns if row[3]}
        acts = [*swapping.swap(self._facts, sequences), *swapping.renamed_sequences(self._facts, sequences, bare)]
        _run(self._connection, acts)

    def _try(self) -> None:
        """Prove that the triggers do not fail, before anybody else's statement fires them."""
        try:
            _run(self._connection, making.trial(self._facts))
        except psycopg.Error as exc:
            if locking.is_refusal(exc):
                raise
            raise ApplyError(
                f"the service's writes of '{self._facts.name}' would fail in the triggers: {exc.diag.message_primary}",
                hint=f"the owner '{self._facts.owner}' writes with search_path = pg_catalog, pg_temp; or --in-window",
            ) from exc

    def _check_allowed(self) -> None:
        name = self._facts.name
        if why := refusals(self._connection, name):
            raise ApplyError(
                f"'{name}' is not written anew online, for it has {'; '.join(why)}",
                hint=f"dbsec migrate rewrite {name} --in-window",
            )

    def _check_same(self) -> None:
        """Refuse to go on for a table that is no longer what the shadow was made for."""
        found = facts.read(self._connection, self._facts.name)
        mark = self._one(_MARK, str(found.shadow))
        if found.digest != self._facts.digest or (mark is not None and mark != making.mark(found)):
            raise ApplyError(
                f"'{found.name}' was changed since its rewrite was begun",
                hint=f"dbsec migrate rewrite {found.name} --abort, then begin again",
            )

    def _one(self, query: Any, *values: str) -> Any:
        row = self._connection.execute(query, values).fetchone()
        return row[0] if row is not None else None

    def _turn(self, mode: LockMode, tables: Iterable[Name], act: Any) -> None:
        names = list(tables)
        what = ", ".join(f"{mode.sql} on '{name}'" for name in names) or "its locks"
        locks = [(name, mode) for name in names]
        in_turn(self._connection, what, locks, act, limits=self._limits, clock=self._clock, told=self._told)


def _away(found: Facts) -> list[Name]:
    return list(dict.fromkeys(Name(row[0], row[1]) for row in found.outgoing))


def _run(connection: psycopg.Connection[Any], statements: Iterable[Composable]) -> None:
    """Send all in one message: between two of them nobody waits for our network."""
    connection.execute(SQL("; ").join([*statements]))
