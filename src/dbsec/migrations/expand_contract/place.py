"""The table that is changed: its columns, keys and whatever hangs on a column, and what of it stops a change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dbsec.errors import UsageError
from dbsec.migrations.expand_contract.ask import Side
from dbsec.migrations.expand_contract.definitions import Definitions
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Column, ConstraintKind
from dbsec.migrations.rules._words import ident, sql
from dbsec.migrations.schema.model import Schema, Table

_NAME_BYTES = 63


@dataclass(frozen=True, slots=True)
class Place:
    """``major``: the oldest server that the files are for. ``taken``: names that this change gives already."""

    table: Table
    schema: Schema
    definitions: Definitions
    major: int
    taken: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The table as SQL, with its schema."""
        return sql(self.table.name)

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key, or of a unique constraint without nulls. Errors: ``UsageError``."""
        for kind in (ConstraintKind.PRIMARY_KEY, ConstraintKind.UNIQUE):
            for constraint in self.table.of_kind(kind):
                if all(self.table.columns[name].not_null for name in constraint.columns):
                    return constraint.columns
        raise UsageError(
            f"table '{self.name}' has no primary key: a backfill has nothing to walk by",
            hint=f"ALTER TABLE {self.name} ADD COLUMN id bigint; then a key on it",
        )

    def beside(self, name: str) -> str:
        """Write the name of an object in the table's schema as SQL."""
        return sql(Name(self.table.name.schema, name))

    def fresh(self, wanted: str) -> str:
        """Find a free name for an index, a constraint, a function or a trigger, of 63 bytes at most."""
        known = {name.name for name in self.schema.index_tables} | {one.name or "" for one in self.table.constraints}
        known |= self.taken | self.table.triggers | {name.name for name in self.schema.functions}
        for number in range(1, 1000):
            ending = "" if number == 1 else f"_{number}"
            made = wanted.encode()[: _NAME_BYTES - len(ending)].decode(errors="ignore") + ending
            if made not in known:
                self.taken.add(made)
                return made
        raise UsageError(f"no free name like '{wanted}'")

    def old(self, side: Side) -> Column:
        """Find a column that goes. Errors: ``UsageError`` where it is not there, or cannot go."""
        column = self.table.columns.get(side.name)
        if column is None:
            known = ", ".join(self.table.columns)
            raise UsageError(f"table '{self.name}' has no column '{side.name}'", hint=f"its columns are {known}")
        for reason, hint in self._held(column):
            raise UsageError(f"column '{self.name}.{ident(side.name)}' {reason}", hint=hint)
        return column

    def new(self, side: Side) -> None:
        """Check a column that comes. Errors: ``UsageError`` where it is there."""
        if side.name in self.table.columns:
            raise UsageError(f"table '{self.name}' has a column '{side.name}' already", hint="give another --new")

    def _held(self, column: Column) -> Iterator[tuple[str, str]]:
        """Tell what stops a column from being dropped in the end, or from having a trigger write it."""
        name, where = column.name, f"{self.name}.{ident(column.name)}"
        if column.identity or column.generated:
            yield (
                "is computed by PostgreSQL: a trigger cannot write it",
                "ALTER COLUMN ... DROP IDENTITY | EXPRESSION",
            )
        for constraint in self.table.of_kind(ConstraintKind.PRIMARY_KEY):
            if name in constraint.columns:
                yield (
                    "is part of the primary key: it names the row while the rows are filled",
                    "add a second key first",
                )
        for other, key in self.schema.referencing(self.table.name):
            if name in key.referenced_columns:
                yield (f"is referenced by '{key.name}' of '{sql(other.name)}'", "move that foreign key first")
        for view in self.schema.views_on(self.table.name):
            if any(read in (name, "*") for relation, read in view.columns_read if relation == str(self.table.name)):
                kind = "materialized view" if view.materialized else "view"
                yield (f"is read by {kind} '{view.name}': the contract could not drop it", f"a view without {where}")
        for (kind, holder), columns in self.table.pinned.items():
            if name in columns:
                yield (f"is read by {kind} '{holder}': the contract could not drop it", f"a {kind} without {where}")
        for other_column in self.table.columns.values():
            if other_column.expression is not None and _reads(other_column, name):
                yield (f"is read by the generated column '{other_column.name}'", "drop that column first")


def place_of(schema: Schema, definitions: Definitions, table: Table, *, major: int) -> Place:
    """Look at a table. Errors: ``UsageError`` for what is no plain table."""
    name = sql(table.name)
    heirs = schema.children.get(table.name)
    for refused, what in (
        (table.kind != "table", f"a {table.kind}"),
        (table.partition_by is not None, "partitioned"),
        (table.partition_of is not None, "a partition"),
        (bool(heirs or table.inherits), "part of an inheritance"),
        (table.of_type is not None, "of a composite type"),
        (bool(table.rules), "rewritten by a rule"),
    ):
        if refused:
            hint = "write its files by hand: docs/migrations_playbook.md"
            raise UsageError(f"table '{name}' is {what}: these files are for a plain table", hint=hint)
    return Place(table, schema, definitions, major)


def _reads(column: Column, name: str) -> bool:
    from dbsec.migrations import tree

    return name in tree.columns_in(column.expression)
