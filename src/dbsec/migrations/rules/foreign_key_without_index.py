"""A foreign key whose columns have no index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dbsec.findings import Severity
from dbsec.migrations.names import Name
from dbsec.migrations.operations import (
    AddColumn,
    AddConstraint,
    Column,
    Constraint,
    ConstraintKind,
    CreateIndex,
    CreateTable,
    Operation,
)
from dbsec.migrations.rule import Example, Hazard, Hit, Rule, Shows, Step
from dbsec.migrations.rules._words import columns, full, sql, target

_KEYS = (ConstraintKind.UNIQUE, ConstraintKind.PRIMARY_KEY)
_KEY = """\
ALTER TABLE orders ADD CONSTRAINT orders_user_fkey FOREIGN KEY (user_id) REFERENCES users (id) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_user_fkey;"""
_FOUND = "SELECT count(*) FROM pg_index WHERE indrelid = 'orders'::regclass AND indkey[0] = 2"


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    assert isinstance(operation, (AddColumn, AddConstraint, CreateTable))
    for of in _foreign_keys(operation):
        if not of or _indexed(step, operation, of):
            continue
        name = sql(operation.table)
        made_now = isinstance(operation, CreateTable)
        yield Hit(
            target(step, operation.table, *of),
            f"no index of {name} begins with ({columns(of)}): each DELETE, and each UPDATE of the key, in the "
            f"referenced table reads all of {name} to look for rows that refer to it",
            f"CREATE INDEX {'' if made_now else 'CONCURRENTLY '}ON {name} ({columns(of)});",
        )


def _foreign_keys(operation: AddColumn | AddConstraint | CreateTable) -> list[tuple[str, ...]]:
    if isinstance(operation, AddConstraint):
        return [operation.constraint.columns] if operation.constraint.kind is ConstraintKind.FOREIGN_KEY else []
    if isinstance(operation, AddColumn):
        return _inline(operation.column)
    found = [one.columns for one in operation.constraints if one.kind is ConstraintKind.FOREIGN_KEY]
    return found + [of for column in operation.columns for of in _inline(column)]


def _inline(column: Column) -> list[tuple[str, ...]]:
    return [(column.name,) for one in column.constraints if one.kind is ConstraintKind.FOREIGN_KEY]


def _indexed(step: Step, operation: AddColumn | AddConstraint | CreateTable, of: tuple[str, ...]) -> bool:
    known = step.schema.table(operation.table)
    if known is None and isinstance(operation, AddConstraint):
        return True  # its indexes are not known: nothing to say
    keys = [index.columns for index in known.indexes.values() if index.predicate is None] if known is not None else []
    keys += [one.columns for one in known.of_kind(*_KEYS)] if known is not None else []
    keys += _of_operation(operation)
    keys += [later for _, act in step.following for later in _made_later(step, act, operation.table)]
    return any(_serves(key, of) for key in keys)


def _serves(key: Sequence[str], of: tuple[str, ...]) -> bool:
    """The foreign key's columns come first in the index, in any order."""
    return len(key) >= len(of) and set(key[: len(of)]) == set(of)


def _of_operation(operation: AddColumn | AddConstraint | CreateTable) -> list[tuple[str, ...]]:
    if isinstance(operation, AddConstraint):
        return []
    listed: tuple[Column, ...] = operation.columns if isinstance(operation, CreateTable) else (operation.column,)
    found = [(one.name,) for one in listed if any(part.kind in _KEYS for part in one.constraints)]
    whole: tuple[Constraint, ...] = operation.constraints if isinstance(operation, CreateTable) else ()
    return found + [one.columns for one in whole if one.kind in _KEYS]


def _made_later(step: Step, act: Operation, table: Name) -> list[tuple[str, ...]]:
    wanted = full(step.schema, table)
    if isinstance(act, CreateIndex) and act.predicate is None and full(step.schema, act.table) == wanted:
        return [act.columns]
    if isinstance(act, AddConstraint) and act.constraint.kind in _KEYS and full(step.schema, act.table) == wanted:
        return [act.constraint.columns]
    return []


RULE = Rule(
    code="MIG114",
    name="foreign-key-without-index",
    title="The columns of a foreign key have no index",
    severity=Severity.WARNING,
    hazard=Hazard.BLOCKS_WRITES,
    applies=(AddConstraint, AddColumn, CreateTable),
    match=_match,
    effect="PostgreSQL makes no index for the referencing side. Each DELETE in the referenced table then reads the "
    "whole referencing one, with its own row locked meanwhile, and thousands of deletes read it thousands of times.",
    instead="CREATE INDEX CONCURRENTLY on the referencing columns, before the key is used.",
    example=Example(
        setup="CREATE TABLE users (id bigint PRIMARY KEY);\n"
        "CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint);",
        bad=_KEY,
        good=f"CREATE INDEX CONCURRENTLY orders_user_idx ON orders (user_id);\n{_KEY}",
        proof=Shows(_FOUND, "0"),
    ),
    source=("ddl-constraints",),
    aliases=("E15",),
)
