"""Where things stand in a schema: tables with their indexes and heirs, kept together with the lookups on them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from dbsec.migrations.names import Name
from dbsec.migrations.operations import Column, Constraint, Type
from dbsec.migrations.schema import naming
from dbsec.migrations.schema.model import Domain, Index, Schema, Table

_COMMON = frozenset(
    (
        *("int2", "int4", "int8", "numeric", "float4", "float8", "money", "serial", "bigserial", "smallserial", "oid"),
        *(
            "text",
            "varchar",
            "bpchar",
            "char",
            "name",
            "bool",
            "bytea",
            "uuid",
            "json",
            "jsonb",
            "xml",
            "bit",
            "varbit",
        ),
        *("timestamp", "timestamptz", "date", "time", "timetz", "interval", "inet", "cidr", "tsvector", "regclass"),
    )
)


def place(schema: Schema, table: Table) -> None:
    """Put a table in, with the lookups on its indexes, constraints and parents."""
    schema.tables[table.name] = table
    for name in table.indexes:
        schema.index_tables[Name(table.name.schema, name)] = table.name
    for constraint in table.constraints:
        schema.constraint_names.add(Name(table.name.schema, constraint.name or ""))
    for parent in parents_of(table):
        link(schema, parent, table.name)


def remove(schema: Schema, table: Table) -> None:
    """Take a table out with all lookups on it; what depends on it stays."""
    schema.tables.pop(table.name, None)
    for name in table.indexes:
        schema.index_tables.pop(Name(table.name.schema, name), None)
    for parent in parents_of(table):
        unlink(schema, parent, table.name)
    schema.children.pop(table.name, None)


def parents_of(table: Table) -> tuple[Name, ...]:
    """Name what a table is a partition of, or inherits from."""
    return (table.partition_of,) if table.partition_of else table.inherits


def link(schema: Schema, parent: Name, child: Name) -> None:
    """Note that ``child`` is a partition of, or inherits from ``parent``."""
    schema.children.setdefault(parent, {})[child] = None


def unlink(schema: Schema, parent: Name, child: Name) -> None:
    """Forget it."""
    schema.children.get(parent, {}).pop(child, None)


def heirs(schema: Schema, table: Table) -> Iterator[Table]:
    """Yield the partitions and children of a table, one level down."""
    for name in tuple(schema.children.get(table.name, ())):
        if (child := schema.tables.get(name)) is not None:
            yield child


def family(schema: Schema, table: Table, *, only: bool = False) -> Iterator[Table]:
    """Yield a table and, unless ``only``, all that inherit from it at any depth, each once."""
    seen = {table.name}
    todo = [table]
    while todo:
        here = todo.pop()
        yield here
        for child in () if only else heirs(schema, here):
            if child.name not in seen:
                seen.add(child.name)
                todo.append(child)


def is_above(schema: Schema, table: Table, other: Table) -> bool:
    """Tell whether ``other`` is the table itself or one of its heirs: PostgreSQL refuses circles."""
    return any(heir is other for heir in family(schema, table))


def put_index(schema: Schema, table: Table, index: Index) -> None:
    """Put an index on a table."""
    table.indexes[index.name] = index
    schema.index_tables[Name(table.name.schema, index.name)] = table.name


def take_index(schema: Schema, table: Table, name: str) -> Index | None:
    """Take an index off a table."""
    schema.index_tables.pop(Name(table.name.schema, name), None)
    return table.indexes.pop(name, None)


def put_constraint(schema: Schema, table: Table, constraint: Constraint) -> None:
    """Put a constraint on a table, in the place of one of its name."""
    schema.constraint_names.add(Name(table.name.schema, constraint.name or ""))
    for number, old in enumerate(table.constraints):
        if old.name == constraint.name:
            table.constraints[number] = constraint
            return
    table.constraints.append(constraint)


def take_constraint(table: Table, name: str) -> Constraint | None:
    """Take a constraint off a table; its index stays."""
    found = table.constraint(name)
    if found is not None:
        table.constraints.remove(found)
    return found


def put_column(table: Table, column: Column) -> None:
    """Put a column on a table, or in the place of one of its name."""
    table.columns[column.name] = column


def of_new_table(schema: Schema, name: Name, *, temporary: bool) -> Name:
    """Give a new table its schema: a temporary one is in pg_temp."""
    return Name("pg_temp", name.name) if temporary and name.schema is None else schema.qualified(name)


def relation_taken(schema: Schema, name: Name) -> bool:
    """Tell whether a relation of any kind has this name."""
    return (
        name in schema.tables
        or name in schema.index_tables
        or name in schema.views
        or name in schema.sequences
        or schema.types.get(name) == "composite"
    )


def constraint_taken(schema: Schema, name: Name) -> bool:
    """Tell whether a constraint of any table or domain in the schema has this name."""
    if name not in schema.constraint_names:
        return False
    owners: tuple[Table | Domain, ...] = (*schema.tables.values(), *schema.domains.values())
    return any(
        one.name == name.name for owner in owners if owner.name.schema == name.schema for one in owner.constraints
    )


def free_relation(schema: Schema, table: Name, middle: str | None, label: str, *, constraint: bool = False) -> str:
    """Choose PostgreSQL's name for a new index or sequence of a table."""

    def taken(name: str) -> bool:
        whole = Name(table.schema, name)
        return relation_taken(schema, whole) or (constraint and constraint_taken(schema, whole))

    return naming.free(taken, table.name, middle, label)


def free_constraint(schema: Schema, owner: Name, middle: str | None, label: str) -> str:
    """Choose PostgreSQL's name for a new constraint of a table or domain."""
    return naming.free(lambda name: constraint_taken(schema, Name(owner.schema, name)), owner.name, middle, label)


def settled_type(schema: Schema, kind: Type) -> Type:
    """Give the type of a column its schema where the schema knows it; an array has one dimension."""
    array = min(kind.array, 1)
    if kind.schema is not None or kind.name in _COMMON:
        return kind if array == kind.array else Type(kind.name, kind.schema, kind.modifiers, array)
    name = find(schema, schema.domains, Name(None, kind.name)) or find(schema, schema.types, Name(None, kind.name))
    return Type(kind.name, name.schema if name else None, kind.modifiers, array)


def find(schema: Schema, names: Collection[Name], written: Name) -> Name | None:
    """Find a name as written among those of a kind: by the search path, else the only one of that name."""
    if written.schema is not None:
        return written if written in names else None
    for first in schema.search_path:
        if (whole := Name(first, written.name)) in names:
            return whole
    elsewhere = [one for one in names if one.name == written.name]
    return elsewhere[0] if len(elsewhere) == 1 else None
