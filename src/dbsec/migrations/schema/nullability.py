"""NOT NULL: of columns, and as the named constraints that they are from 18 on."""

from __future__ import annotations

from msgspec.structs import replace

from dbsec.migrations.operations import Constraint, ConstraintKind
from dbsec.migrations.schema import naming, places
from dbsec.migrations.schema.model import Schema, Table

_NAMED = 18


def require(
    schema: Schema, table: Table, column: str, constraint: Constraint | None = None, *, only: bool = False
) -> None:
    """Make a column NOT NULL, in partitions and children too unless ``only``: they take the constraint's name."""
    set_not_null(table, column, constraint)
    named = noted(table, column) or spelled(schema, table, column)
    for heir in places.family(schema, table, only=only):
        if heir is not table:
            set_not_null(heir, column, named)


def set_not_null(table: Table, column: str, constraint: Constraint | None = None) -> None:
    """Make a column NOT NULL; a constraint that is not valid is only noted, as no proof."""
    old, own = table.columns.get(column), noted(table, column)
    valid = constraint is None or constraint.valid
    if old is None or (old.not_null and (own or constraint is None or not valid)):
        return
    usual = naming.joined(table.name.name, column, "not_null")
    wanted = constraint or own or Constraint(ConstraintKind.NOT_NULL)
    if own:
        table.constraints.remove(own)
    if not valid or wanted.name not in (None, usual):
        table.constraints.append(replace(wanted, name=wanted.name or usual, columns=(column,), valid=valid))
    if valid:
        table.columns[column] = replace(old, not_null=True)


def noted(table: Table, column: str) -> Constraint | None:
    """Find the NOT NULL constraint that stands among a table's for a column."""
    return next((one for one in table.of_kind(ConstraintKind.NOT_NULL) if one.columns == (column,)), None)


def spelled(schema: Schema, table: Table, column: str) -> Constraint | None:
    """Tell the valid NOT NULL constraint of a column by name, as every one has from 18 on; None below."""
    if (schema.major or 0) < _NAMED or column not in table.columns or not table.columns[column].not_null:
        return None
    usual = naming.joined(table.name.name, column, "not_null")
    return noted(table, column) or Constraint(ConstraintKind.NOT_NULL, usual, (column,))


def of_name(schema: Schema, table: Table, name: str) -> Constraint | None:
    """Find the NOT NULL of a table (18) that has this name, noted or not."""
    every = (spelled(schema, table, column) for column in table.columns)
    return next((one for one in every if one is not None and one.name == name), None)


def hand_down_column(schema: Schema, table: Table, column: str) -> None:
    """Name the NOT NULL of a column that partitions and children just got, as their parent's."""
    if (named := spelled(schema, table, column)) is not None:
        for heir in places.family(schema, table):
            set_not_null(heir, column, named)


def hand_down(schema: Schema, parent: Table, child: Table, column: str) -> None:
    """Give a partition or child the NOT NULL of its parent, under the parent's name where it has none."""
    named = noted(parent, column) or spelled(schema, parent, column)
    if named is not None or (column in parent.columns and parent.columns[column].not_null):
        set_not_null(child, column, named)


def drop(table: Table, column: str) -> None:
    """Let a column take NULL again."""
    if (old := table.columns.get(column)) is not None:
        table.columns[column] = replace(old, not_null=False)
    table.constraints[:] = [
        one for one in table.constraints if one.kind is not ConstraintKind.NOT_NULL or one.columns != (column,)
    ]


def keep_name(schema: Schema, table: Table, column: str) -> None:
    """Note the name that a NOT NULL of 18 keeps when its table or column gets another."""
    if (named := spelled(schema, table, column)) is not None:
        places.put_constraint(schema, table, named)
