"""ALTER TABLE … ADD COLUMN: a constant is kept in the catalog; what each row must get for itself rewrites the table."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from dbsec.migrations import tree
from dbsec.migrations.effects import coercion, dependents
from dbsec.migrations.effects.draft import Draft
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.effects.volatility import Volatility, volatility
from dbsec.migrations.operations import AddColumn, Column, Constraint, ConstraintKind, Operation
from dbsec.migrations.schema.model import Table
from dbsec.migrations.statement import Node

_KEYS = (ConstraintKind.UNIQUE, ConstraintKind.PRIMARY_KEY, ConstraintKind.EXCLUDE)
_NULLS_COUNT = re.compile(r"\bNULLS\s+NOT\s+DISTINCT\b", re.IGNORECASE)


def add_column(operation: AddColumn, draft: Draft) -> None:
    """Foretell ADD COLUMN."""
    table = draft.target(operation)
    if table is None:
        return
    column, family = operation.column, draft.family(table, only=operation.only)
    draft.lock(LockMode.ACCESS_EXCLUSIVE, *family)
    if column.name in table.columns:
        if operation.if_not_exists:
            draft.proves(f"the column '{column.name}' is there already")
        else:
            draft.fails(f'column "{column.name}" of relation "{table.name.name}" already exists')
        return
    if table.partition_of:
        draft.fails("cannot add column to a partition")
    if operation.only and len(draft.family(table)) > 1:
        draft.fails("column must be added to child tables too")
    if not coercion.known(coercion.plain(column.type), draft.schema, draft.major) and not draft.schema.known:
        draft.doubts()  # it might be a domain with a CHECK
    rewrites = _rewrite(column, draft)
    if rewrites:
        draft.does(Work.REWRITE, family, rewrites)
    _null(table, family, column, draft, rewritten=bool(rewrites))
    for constraint in column.constraints:
        _inline(operation, table, constraint, draft, rewritten=bool(rewrites))


def default_of(column: Column, draft: Draft) -> Node | None:
    """Find the value that rows get which are there already: the column's own, else that of its domain."""
    if column.default is not None:
        return column.default
    found = (domain.default for domain in coercion.domains(column.type, draft.schema))
    return next((default for default in found if default is not None), None)


def _rewrite(column: Column, draft: Draft) -> str:
    """Say why each row is written anew; empty where none is."""
    if column.generated == "virtual":
        return ""
    if column.type.name in coercion.SERIALS and column.type.schema is None:
        return f"{column.type} takes a number of a sequence for each row"
    if column.identity:
        return "the identity takes a number of a sequence for each row"
    if column.generated:
        return "the generated value is stored in each row"
    if coercion.base(column.type, draft.schema)[1]:
        return f"each row is checked against the domain {column.type}"
    return _volatile(column, draft)


def _volatile(column: Column, draft: Draft) -> str:
    default = default_of(column, draft)
    if default is None:
        return ""
    kind, function = volatility(default, draft.schema, draft.major)
    if kind is Volatility.UNKNOWN:
        draft.doubts()
        return f"{function}() may give each row another value"
    if kind is Volatility.VOLATILE:
        return f"{function}() gives each row another value"
    if not tree.is_null(default):
        draft.proves("one default for all rows is kept in the catalog")
    return ""


def _null(table: Table, family: list[Table], column: Column, draft: Draft, *, rewritten: bool) -> None:
    """NOT NULL needs a value for the rows that are there: none fails, a virtual one is computed row by row."""
    if column.generated == "virtual":
        if column.not_null:
            draft.does(Work.SCAN, family, "the virtual value of each row is computed and must not be NULL")
        return
    default = default_of(column, draft)
    has_value = default is not None and not tree.is_null(default)
    if has_value or column.identity or column.generated or column.type.name in coercion.SERIALS:
        return
    domains = coercion.domains(column.type, draft.schema)
    strict = [d for d in domains if any(c.kind is ConstraintKind.NOT_NULL and c.valid for c in d.constraints)]
    if (column.not_null or strict) and draft.filled(table):
        if strict:
            draft.fails(f"domain {strict[0].name.name} does not allow null values")
        else:
            draft.fails(f'column "{column.name}" of relation "{table.name.name}" contains null values')
        if not rewritten:
            draft.does(Work.SCAN, family, "each row is read until one has NULL in the new column")


def _inline(operation: AddColumn, table: Table, constraint: Constraint, draft: Draft, *, rewritten: bool) -> None:
    """A constraint that stands beside the new column."""
    column = operation.column
    if constraint.kind is ConstraintKind.CHECK and constraint.enforced and not rewritten:
        family = draft.family(table, only=operation.only or constraint.no_inherit)
        draft.does(Work.SCAN, family, "the CHECK is tried on each row, even where all get the same value")
    elif constraint.kind in _KEYS:
        if constraint.kind is ConstraintKind.PRIMARY_KEY and any(table.of_kind(ConstraintKind.PRIMARY_KEY)):
            draft.fails(f'multiple primary keys for table "{table.name.name}" are not allowed')
        if table.partition_by:
            draft.fails("unique constraint on partitioned table must include all partitioning columns")
        default = default_of(column, draft)
        same = (default is not None and not tree.is_null(default)) or _NULLS_COUNT.search(operation.clause)
        if same and not rewritten and draft.filled(table):
            draft.fails(f"could not create unique index: all rows get the same '{column.name}'")
        draft.does(Work.BUILD, [table], f"{constraint.kind.upper()} needs an index")
    elif constraint.kind is ConstraintKind.FOREIGN_KEY and constraint.references is not None:
        referenced = draft.table(constraint.references)
        draft.lock(LockMode.SHARE_ROW_EXCLUSIVE, *draft.family(referenced))
        if draft.complete(referenced) and not dependents.has_key(referenced, constraint.referenced_columns):
            draft.fails(
                f'there is no unique constraint matching given keys for referenced table "{referenced.name.name}"'
            )
        if column.default is None and not column.generated:
            draft.proves("all rows have NULL in the new column, so that the foreign key holds")
        elif constraint.enforced:
            draft.does(Work.FK_SCAN, [table], "each row's default is looked up in the referenced table")


FORETOLD: dict[type[Operation], Callable[[Any, Draft], None]] = {AddColumn: add_column}
