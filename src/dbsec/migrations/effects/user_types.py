"""ALTER DOMAIN and ALTER TYPE: what they do to the tables that use the type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from msgspec.structs import replace

from dbsec.migrations.effects import coercion, dependents
from dbsec.migrations.effects.draft import Draft
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.names import Name
from dbsec.migrations.operations import AddColumn, AlterComposite, AlterDomain, Column, Operation, Type
from dbsec.migrations.schema.model import Table

_NEW_TYPE_TAKES_LABELS = 17  # a label may be used at once where its transaction made the type too
_CHECKS = ("add constraint", "validate constraint", "set not null")


def alter_domain(operation: AlterDomain, draft: Draft) -> None:
    """Foretell ALTER DOMAIN: a constraint is tried on each row of each table that uses the domain."""
    added = operation.constraint
    if operation.act not in _CHECKS or (operation.act == "add constraint" and added is not None and not added.valid):
        return
    if not draft.schema.known:
        draft.doubts()
    domain = draft.schema.domain(Type(operation.domain.name, operation.domain.schema))
    if domain is None:
        return
    if operation.act == "set not null" and any(c.kind.value == "not null" for c in domain.constraints):
        draft.proves(f"the domain {domain.name} is NOT NULL already")
        return
    for table, column in _users(domain.name, draft):
        if column is None:
            draft.fails(f'cannot alter type "{domain.name.name}" because a column of "{table.name.name}" uses it')
        elif table.partition_by is None and table.kind != "foreign table":
            draft.lock(LockMode.SHARE, table)
            draft.does(Work.SCAN, [table], f"each value of '{column}' is tried against the domain {domain.name}")


def _users(domain: Name, draft: Draft) -> Iterator[tuple[Table, str | None]]:
    """Yield the tables that use a domain and the column; None for the column where an array of it is used."""
    for table in draft.schema.tables.values():
        for column in table.columns.values():
            below = coercion.domains(replace(column.type, array=0), draft.schema)
            if any(one.name == domain for one in below):
                yield table, None if column.type.array else column.name


def alter_composite(operation: AlterComposite, draft: Draft) -> None:
    """Foretell ALTER TYPE … ATTRIBUTE: rows keep their values, unless an attribute's type changes."""
    for table in draft.schema.tables.values():
        if table.of_type == draft.schema.qualified(operation.table):
            draft.lock(LockMode.ACCESS_EXCLUSIVE, table)
            if not operation.cascade:
                draft.fails(f'cannot alter type "{operation.table.name}" because it is the type of a typed table')
            if operation.act == "alter":
                draft.does(Work.REWRITE, [table], f"each row is a value of the type {operation.table}")
    if operation.act != "alter":
        return
    for table, column in dependents.tables_with_type(operation.table, draft.schema):
        draft.fails(f'cannot alter type "{operation.table.name}" because column "{table.name.name}.{column}" uses it')


def uses_new_value(operation: Operation, draft: Draft) -> None:
    """Refuse a label of an enum in the transaction that added it, where the operation's table has such a column."""
    name = getattr(operation, "table", None)
    table = draft.schema.table(name) if isinstance(name, Name) else None
    for of, values in draft.session.added_values.items():
        new = any(("type", Name(place, of.name)) in draft.schema.new_objects for place in draft.schema.search_path)
        if new and draft.major >= _NEW_TYPE_TAKES_LABELS:
            continue
        used = next((value for value in sorted(values) if f"'{value}'" in operation.clause), None)
        columns = [*(table.columns.values() if table else ()), *_own_column(operation)]
        if used is not None and any(column.type.name == of.name for column in columns):
            draft.fails(f'unsafe use of new value "{used}" of enum type {of.name}')


def _own_column(operation: Operation) -> list[Column]:
    return [operation.column] if isinstance(operation, AddColumn) else []


FORETOLD: dict[type[Operation], Callable[[Any, Draft], None]] = {
    AlterDomain: alter_domain,
    AlterComposite: alter_composite,
}
