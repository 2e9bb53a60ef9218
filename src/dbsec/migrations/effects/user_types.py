"""ALTER DOMAIN and ALTER TYPE: what they do to the tables that use the type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from dbsec.migrations.effects import coercion, dependents
from dbsec.migrations.effects.draft import Draft
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.names import Name
from dbsec.migrations.operations import AlterComposite, AlterDomain, Operation, Type
from dbsec.migrations.schema.model import Table

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
    if operation.act != "alter":
        return
    for table, column in dependents.tables_with_type(operation.table, draft.schema):
        draft.fails(f'cannot alter type "{operation.table.name}" because column "{table.name.name}.{column}" uses it')


FORETOLD: dict[type[Operation], Callable[[Any, Draft], None]] = {
    AlterDomain: alter_domain,
    AlterComposite: alter_composite,
}
