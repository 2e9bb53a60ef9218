"""RENAME and SET SCHEMA: what a schema holds after it, with every place that bore the old name."""

from __future__ import annotations

from typing import Any, TypeVar

from msgspec.structs import replace

from dbsec.migrations.names import Name
from dbsec.migrations.operations import ConstraintKind, Rename, SetSchema, Type
from dbsec.migrations.schema import column_names, nullability, places
from dbsec.migrations.schema.model import Index, Named, Schema, Table

_T = TypeVar("_T")
_RELATIONS = ("table", "view", "materialized view", "foreign table")
_FUNCTIONS = ("function", "procedure", "routine", "aggregate")
_OF_A_TABLE = ("trigger", "policy", "rule")


def rename(schema: Schema, operation: Rename) -> None:
    """RENAME of anything; what is not known stays so."""
    old, new = operation.name, operation.new
    if operation.table is not None:
        _rename_within(schema, operation)
    elif operation.kind == "schema":
        _rename_schema(schema, old.name, new)
    elif operation.kind == "index":
        _rename_index(schema, old, new)
    elif (found := _found(schema, operation.kind, old)) is not None:
        _move(schema, operation.kind, found, Name(found.schema, new))


def set_schema(schema: Schema, operation: SetSchema) -> None:
    """SET SCHEMA: indexes, constraints and owned sequences go along."""
    found = _found(schema, operation.kind, operation.name)
    if found is not None:
        _move(schema, operation.kind, found, Name(operation.schema, found.name))


def _found(schema: Schema, kind: str, name: Name) -> Name | None:
    if kind in _RELATIONS:
        found = schema.table(name) or schema.view(name)
        return found.name if found else None
    if kind in ("type", "domain"):
        return places.find(schema, schema.domains, name) or places.find(schema, schema.types, name)
    if kind == "sequence":
        return places.find(schema, schema.sequences, name)
    return places.find(schema, schema.functions, name) if kind in _FUNCTIONS else None


def _move(schema: Schema, kind: str, old: Name, new: Name) -> None:
    if kind in _RELATIONS:
        _move_relation(schema, old, new)
    elif kind in ("type", "domain"):
        _move_type(schema, old, new)
    elif kind == "sequence":
        _move_sequence(schema, old, new)
    elif kind in _FUNCTIONS:
        schema.functions = _rekeyed(schema.functions, old, new)
    schema.new_objects = {(kind_, new if name == old else name) for kind_, name in schema.new_objects}


def _rekeyed(of: Named[_T], old: Name, new: Name) -> Named[_T]:
    return Named((new if name == old else name, thing) for name, thing in of.items())


def _move_relation(schema: Schema, old: Name, new: Name) -> None:
    if (table := schema.tables.get(old)) is not None:
        _move_table(schema, table, new)
    schema.views = _rekeyed(schema.views, old, new)
    for view in schema.views.values():
        view.name = new if view.name == old else view.name
        view.reads = tuple(new if name == old else name for name in view.reads)
        pairs = ((str(new) if of == str(old) else of, column) for of, column in view.columns_read)
        view.columns_read = tuple(sorted(pairs))


def _move_table(schema: Schema, table: Table, new: Name) -> None:
    old = table.name
    for name in table.columns if old.name != new.name else ():
        nullability.keep_name(schema, table, name)
    heirs = list(places.heirs(schema, table))
    places.remove(schema, table)
    table.name = new
    for index in table.indexes.values():
        index.table = new
    for child in heirs:
        child.partition_of = new if child.partition_of == old else child.partition_of
        child.inherits = tuple(new if name == old else name for name in child.inherits)
        places.link(schema, new, child.name)
    places.place(schema, table)
    for other, key in [*schema.referencing(old)]:
        places.put_constraint(schema, other, replace(key, references=new))
    owned = [(sequence, column) for sequence, (owner, column) in schema.owners.items() if owner == old]
    for sequence, column in owned:
        schema.owners[sequence] = (new, column)
        if old.schema != new.schema:
            _move_sequence(schema, sequence, Name(new.schema, sequence.name))


def _move_sequence(schema: Schema, old: Name, new: Name) -> None:
    schema.sequences = {new if name == old else name for name in schema.sequences}
    schema.owners = _rekeyed(schema.owners, old, new)
    for table in schema.tables.values():
        for column in list(table.columns.values()):
            if column.default is not None and "FuncCall" in column.default:
                table.columns[column.name] = replace(column, default=_said(column.default, str(old), str(new)))


def _said(node: Any, old: str, new: str) -> Any:
    """Copy a node with another text in a constant."""
    if isinstance(node, list):
        return [_said(item, old, new) for item in node]
    if isinstance(node, dict):
        return {key: _said(value, old, new) for key, value in node.items()}
    return new if node == old else node


def _move_type(schema: Schema, old: Name, new: Name) -> None:
    schema.types = _rekeyed(schema.types, old, new)
    schema.domains = _rekeyed(schema.domains, old, new)
    schema.new_types = {new if name == old else name for name in schema.new_types}
    for domain in schema.domains.values():
        domain.name = new if domain.name == old else domain.name
        domain.base = _retyped(domain.base, old, new)
    for table in schema.tables.values():
        for column in list(table.columns.values()):
            if (kind := _retyped(column.type, old, new)) is not column.type:
                table.columns[column.name] = replace(column, type=kind)


def _retyped(kind: Type, old: Name, new: Name) -> Type:
    return Type(new.name, new.schema, kind.modifiers, kind.array) if (kind.schema, kind.name) == old else kind


def _rename_schema(schema: Schema, old: str, new: str) -> None:
    for table in [one for one in schema.tables.values() if one.name.schema == old]:
        _move_relation(schema, table.name, Name(new, table.name.name))
    for name in [one for one in schema.views if one.schema == old]:
        _move_relation(schema, name, Name(new, name.name))
    for name in [one for one in (*schema.types, *schema.domains) if one.schema == old]:
        _move_type(schema, name, Name(new, name.name))
    for name in [one for one in schema.sequences if one.schema == old]:
        _move_sequence(schema, name, Name(new, name.name))
    for name in [one for one in schema.functions if one.schema == old]:
        schema.functions = _rekeyed(schema.functions, name, Name(new, name.name))
    whole = {(kind, Name(new, name.name) if name.schema == old else name) for kind, name in schema.new_objects}
    schema.new_objects = {
        (kind, Name(None, new) if (kind, name) == ("schema", (None, old)) else name) for kind, name in whole
    }
    schema.search_path = tuple(new if one == old else one for one in schema.search_path)


def _rename_index(schema: Schema, old: Name, new: str) -> None:
    index = schema.index(old)
    if index is None:
        return
    table = schema.tables[index.table]
    if index.constraint:
        _rename_constraint(schema, table, index.constraint, new)
    else:
        _put_under(schema, table, index, new)


def _put_under(schema: Schema, table: Table, index: Index, new: str) -> None:
    old = index.name
    places.take_index(schema, table, old)
    index.name = new
    places.put_index(schema, table, index)
    for part in places.heirs(schema, table):
        for own in part.indexes.values():
            own.parent = new if own.parent == old else own.parent
    place = table.name.schema
    schema.new_objects = {
        (kind, Name(place, new) if (kind, name) == ("index", (place, old)) else name)
        for kind, name in schema.new_objects
    }


def _rename_constraint(schema: Schema, table: Table, old: str, new: str) -> None:
    """The index of a constraint always bears its name."""
    found = table.constraint(old) or nullability.of_name(schema, table, old)
    if found is None:
        return
    if found not in table.constraints:
        table.constraints.append(found)
    table.constraints[table.constraints.index(found)] = replace(found, name=new)
    schema.constraint_names.add(Name(table.name.schema, new))
    if (index := table.indexes.get(old)) is not None and index.constraint == old:
        index.constraint = new
        _put_under(schema, table, index, new)


def _rename_within(schema: Schema, operation: Rename) -> None:
    """RENAME of what belongs to a table: column, constraint, trigger, policy, rule."""
    written, old, new = operation.table or Name(None, ""), operation.name.name, operation.new
    if operation.kind == "domain constraint":
        domain = schema.domain(Type(written.name, written.schema))
        if domain is not None:
            domain.constraints[:] = [replace(one, name=new) if one.name == old else one for one in domain.constraints]
        return
    table = schema.table(written)
    if operation.kind == "column":
        for heir in list(places.family(schema, table)) if table else ():
            column_names.of_table(schema, heir, old, new)
        if (view := schema.view(written)) is not None:
            column_names.of_view(schema, view, old, new)
    elif table is not None and operation.kind == "constraint":
        found = table.constraint(old) or nullability.of_name(schema, table, old)
        handed_down = found is not None and found.kind in (ConstraintKind.CHECK, ConstraintKind.NOT_NULL)
        for heir in list(places.family(schema, table, only=not handed_down)):
            _rename_constraint(schema, heir, old, new)
    elif table is not None and operation.kind in _OF_A_TABLE:
        held = {"trigger": table.triggers, "policy": table.policies, "rule": table.rules}[operation.kind]
        if old in held:
            held.remove(old)
            held.add(new)
            if (columns := table.pinned.pop((operation.kind, old), None)) is not None:
                table.pinned[operation.kind, new] = columns
