"""The effect of one operation while it is put together: what it may look up, and what it locks, does and proves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec import Struct, field

from dbsec.migrations.effects.model import Effect, LockMode, Task, Work
from dbsec.migrations.names import Name
from dbsec.migrations.operations import OnTable
from dbsec.migrations.schema import places
from dbsec.migrations.schema.model import Schema, Table

if TYPE_CHECKING:  # session.py imports effects.model
    from dbsec.migrations.session import Session


_WITHOUT_ROWS = ("foreign table", "view")  # of their own


class Draft(Struct):
    """``schema`` is the state before the operation; it is only read."""

    schema: Schema
    session: Session
    in_transaction: bool
    _locks: dict[Name, LockMode] = field(default_factory=dict)
    _work: dict[Task, None] = field(default_factory=dict)
    _proofs: list[str] = field(default_factory=list)
    _fails: str = ""
    _unsure: bool = False

    @property
    def major(self) -> int:
        """The server's major version."""
        return self.session.major

    # --- what stands there

    def table(self, name: Name) -> Table:
        """Find a table; a view gets a record with a name alone, a table that is not known what was said of it."""
        if (found := self.schema.table(name)) is not None:
            return found
        if (view := self.schema.view(name)) is not None:
            return Table(view.name, kind="view")
        full = self.schema.qualified(name)
        return self.schema.guests.get(full) or Table(full)

    def target(self, operation: OnTable) -> Table | None:
        """Find the table of an operation; None where IF EXISTS makes it do nothing."""
        if self.schema.known and operation.if_exists and not self.exists(operation.table):
            return None
        return self.table(operation.table)

    def exists(self, name: Name) -> bool:
        """Tell whether a table or view of this name is known."""
        return self.schema.table(name) is not None or self.schema.view(name) is not None

    def complete(self, table: Table) -> bool:
        """Tell whether all of a table is known, so that what its record lacks does not exist."""
        return table.new or (self.schema.known and table.name in self.schema.tables)

    def family(self, table: Table, *, only: bool = False) -> list[Table]:
        """Return a table with its partitions and inheritance children, all levels down."""
        if only or table.name not in self.schema.children:
            return [table]
        return list(places.family(self.schema, table))

    def leaves(self, table: Table) -> list[Table]:
        """Return the tables below (or the table itself) that hold rows, as far as they are known."""
        if table.partition_by is None:
            return [table]
        below = [child for child in self.family(table) if child.partition_by is None]
        return below or ([] if self.complete(table) else [table])

    def filled(self, table: Table) -> bool:
        """Tell whether rows may stand in a table or in one of its partitions."""
        return any(not leaf.empty and leaf.kind not in _WITHOUT_ROWS for leaf in self.leaves(table))

    # --- what it does

    def lock(self, mode: LockMode, *relations: Table | Name) -> None:
        """Take a lock; of two on one relation the stronger one counts."""
        for relation in relations:
            name = relation.name if isinstance(relation, Table) else relation
            self._locks[name] = max(mode, self._locks.get(name, mode))

    def does(self, work: Work, tables: Iterable[Table], why: str) -> None:
        """Add work on those tables that may hold rows: of a partitioned one on its partitions."""
        for table in tables:
            for leaf in self.leaves(table):
                if not leaf.empty and leaf.kind not in _WITHOUT_ROWS:
                    self._work[Task(work, leaf.name, why)] = None

    def proves(self, why: str) -> None:
        """Say why work that one would expect is left out."""
        if why and why not in self._proofs:
            self._proofs.append(why)

    def fails(self, saying: str) -> None:
        """Say what PostgreSQL answers instead; the first answer stays."""
        self._fails = self._fails or saying

    def doubts(self) -> None:
        """Note that something is not known, so that the worst was assumed."""
        self._unsure = True

    def refused_in_transaction(self, what: str) -> bool:
        """Fail where a command must not stand in a transaction; tell whether it does."""
        if self.in_transaction:
            self.fails(f"{what} cannot run inside a transaction block")
        return self.in_transaction

    def effect(self) -> Effect:
        """Close the draft."""
        locks = self._locks.items()
        return Effect(
            tuple(sorted(locks, key=lambda lock: str(lock[0])) if len(locks) > 1 else locks),
            tuple(self._work),
            tuple(self._proofs),
            self._fails,
            self._unsure,
        )
