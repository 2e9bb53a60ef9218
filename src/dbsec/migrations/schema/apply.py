"""What a schema is after an operation: the state between two statements, kept in step."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from dbsec.migrations import operations as op
from dbsec.migrations import tree
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Operation
from dbsec.migrations.schema import altering, constraining, creating, dropping, partitioning, places, renaming
from dbsec.migrations.schema.model import Schema, Table
from dbsec.migrations.schema.reading import UNKNOWN

_VOLATILITY = ("immutable", "stable", "volatile")
DEFAULT_PATH = ("public",)
_ELEMENT = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,"]*))\s*(?:,|\Z)')


def apply(schema: Schema, operation: Operation, *, released: bool) -> None:
    """Change ``schema`` as PostgreSQL would. What is not known is left alone; what would fail changes nothing.

    ``released``: the operation is of the release that is judged, so that what it makes is new.
    """
    if not schema.known and isinstance(operation, _SAID_OF_A_TABLE):
        schema = _with_guest(schema, operation)
    made = _MAKES.get(type(operation))
    if made is not None:
        made(schema, operation, released=released)
    elif (changed := _CHANGES.get(type(operation))) is not None:
        changed(schema, operation)


def _with_guest(schema: Schema, operation: op.OnTable) -> Schema:
    """Look at a table that nobody described through a schema of such tables; at any other through its own."""
    if schema.table(operation.table) is not None or schema.view(operation.table) is not None:
        return schema
    full = schema.qualified(operation.table)
    if full not in schema.guests:
        schema.guests[full] = Table(full)
    for column in _named(operation):
        schema.guests[full].columns.setdefault(column, op.Column(column, UNKNOWN))
    return replace(schema, tables=schema.guests, children={}, index_tables={}, constraint_names=set())


def _named(operation: op.OnTable) -> tuple[str, ...]:
    """The columns that must be there, although nobody said of which type."""
    if isinstance(operation, op.AddConstraint):
        return (*operation.constraint.columns, *tree.columns_in(operation.constraint.expression))
    return (operation.column,) if isinstance(operation, op.SetNotNull) else ()


def _write(schema: Schema, operation: op.Write) -> None:
    table = schema.table(operation.table)
    if table is not None and table.new and operation.kind in ("insert", "copy", "merge") and not operation.bounded:
        partitioning.fill(schema, table)


def _refresh(schema: Schema, operation: op.Refresh) -> None:
    table = schema.table(operation.view)
    if table is not None and table.new:
        table.filled = operation.with_data


def _set_variable(schema: Schema, operation: op.SetVariable) -> None:
    if operation.name not in ("search_path", "all"):
        return
    if operation.local and schema.outer_path is None:
        schema.outer_path = schema.search_path
    elif not operation.local:
        schema.outer_path = None
    schema.search_path = DEFAULT_PATH if operation.value is None else path_of(operation.value)


def path_of(value: str) -> tuple[str, ...]:
    """Read the value of search_path; ``"$user"`` is left out."""
    found: list[str] = []
    at = 0
    while at < len(value) and (element := _ELEMENT.match(value, at)) is not None and element.end() > at:
        quoted, plain = element.groups()
        found.append(quoted.replace('""', '"') if quoted is not None else plain.strip().lower())
        at = element.end()
    return tuple(name for name in found if name not in ("", "$user"))


def _transaction(schema: Schema, operation: op.TransactionControl) -> None:
    if operation.act in ("commit", "rollback") and schema.outer_path is not None:
        schema.search_path, schema.outer_path = schema.outer_path, None


def _create_function(schema: Schema, operation: op.CreateFunction, *, released: bool) -> None:
    """Functions of one name are kept as one, as volatile as the most volatile of them."""
    name = schema.qualified(operation.name)
    old = schema.functions.get(name)
    if released and old is None:
        schema.new_objects.add(("procedure" if operation.procedure else "function", name))
    ways = [operation.volatility] if old is None or operation.replace else [operation.volatility, old]
    schema.functions[name] = max(ways, key=_VOLATILITY.index)


def _create_type(schema: Schema, operation: op.CreateType, *, released: bool) -> None:
    name = schema.qualified(operation.name)
    if released and name not in schema.types:
        schema.new_types.add(name)
        schema.new_objects.add(("type", name))
    schema.types[name] = operation.kind


def _create_sequence(schema: Schema, operation: op.CreateSequence, *, released: bool) -> None:
    name = schema.qualified(operation.name)
    if released and name not in schema.sequences:
        schema.new_objects.add(("sequence", name))
    schema.sequences.add(name)
    _own(schema, name, operation.owned_by)


def _alter_sequence(schema: Schema, operation: op.AlterSequence) -> None:
    name = places.find(schema, schema.sequences, operation.name)
    if name is not None and "owned_by" in operation.options:
        schema.owners.pop(name, None)
        _own(schema, name, operation.owned_by)


def _own(schema: Schema, sequence: Name, owner: tuple[Name, str] | None) -> None:
    table = schema.table(owner[0]) if owner else None
    if owner is not None and table is not None:
        schema.owners[sequence] = (table.name, owner[1])


def _create_other(schema: Schema, operation: op.CreateOther, *, released: bool) -> None:
    if released:
        schema.new_objects.add((operation.kind, operation.name))
    if operation.kind == "statistics" and operation.name.name:
        for table in filter(None, map(schema.table, operation.tables)):
            schema.statistics[schema.qualified(operation.name)] = table.name


def _create_trigger(schema: Schema, operation: op.CreateTrigger) -> None:
    table = schema.table(operation.table)
    if table is not None:
        table.triggers.add(operation.name)
        _pin(table, ("trigger", operation.name), operation.columns)


def _create_rule(schema: Schema, operation: op.CreateRule) -> None:
    table = schema.table(operation.table)
    if table is not None:
        table.rules.add(operation.name)


def _create_policy(schema: Schema, operation: op.CreatePolicy) -> None:
    table = schema.table(operation.table)
    if table is not None and not operation.alter:
        table.policies.add(operation.name)
    if table is not None:
        before = table.pinned.get(("policy", operation.name), ()) if operation.alter else ()
        _pin(table, ("policy", operation.name), (*before, *operation.columns))


def _pin(table: Table, reader: tuple[str, str], columns: tuple[str, ...]) -> None:
    table.pinned.pop(reader, None)
    if own := tuple(sorted({column for column in columns if column in table.columns})):
        table.pinned[reader] = own


_SAID_OF_A_TABLE = (
    op.AddColumn,
    op.DropColumn,
    op.AlterColumnType,
    op.SetDefault,
    op.DropDefault,
    op.SetNotNull,
    op.DropNotNull,
    op.AddConstraint,
    op.ValidateConstraint,
    op.DropConstraint,
)
_MAKES: dict[type[Operation], Callable[..., None]] = {
    op.CreateTable: creating.create_table,
    op.CreateTableAs: creating.create_table_as,
    op.CreateView: creating.create_view,
    op.CreateDomain: creating.create_domain,
    op.CreateIndex: constraining.create_index,
    op.CreateFunction: _create_function,
    op.CreateType: _create_type,
    op.CreateSequence: _create_sequence,
    op.CreateOther: _create_other,
    op.AddColumn: altering.add_column,
}

_CHANGES: dict[type[Operation], Callable[[Schema, Any], None]] = {
    op.CreateTrigger: _create_trigger,
    op.CreateRule: _create_rule,
    op.CreatePolicy: _create_policy,
    op.DropColumn: dropping.drop_column,
    op.AlterColumnType: altering.change_column,
    op.SetDefault: altering.change_column,
    op.DropDefault: altering.change_column,
    op.SetNotNull: altering.change_column,
    op.DropNotNull: altering.change_column,
    op.SetExpression: altering.change_column,
    op.DropExpression: altering.change_column,
    op.AlterIdentity: altering.change_column,
    op.AddConstraint: altering.add_constraint,
    op.ValidateConstraint: altering.validate_constraint,
    op.AlterConstraint: altering.alter_constraint,
    op.DropConstraint: altering.drop_constraint,
    op.SetPersistence: altering.set_persistence,
    op.RowSecurity: altering.row_security,
    op.AlterDomain: altering.alter_domain,
    op.AlterFunction: altering.alter_function,
    op.AlterSequence: _alter_sequence,
    op.AttachPartition: partitioning.attach,
    op.DetachPartition: partitioning.detach,
    op.Inherit: partitioning.inherit,
    op.Drop: dropping.drop,
    op.Truncate: dropping.truncate,
    op.Rename: renaming.rename,
    op.SetSchema: renaming.set_schema,
    op.Write: _write,
    op.Refresh: _refresh,
    op.SetVariable: _set_variable,
    op.TransactionControl: _transaction,
}

SHAPING = tuple({**_MAKES, **_CHANGES, **dict.fromkeys(_SAID_OF_A_TABLE)})
"""The operations after which a schema is another."""
