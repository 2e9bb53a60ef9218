"""ADD COLUMN: why it rewrites the table, and the same column in steps that do not."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from functools import lru_cache

from dbsec.migrations.effects.model import Work
from dbsec.migrations.names import Name
from dbsec.migrations.operations import AddColumn, AlterColumnType, Column, SetExpression, Type
from dbsec.migrations.rule import Step
from dbsec.migrations.rules import _fixes, _source
from dbsec.migrations.rules._fixes import alter
from dbsec.migrations.rules._types import free_type
from dbsec.migrations.rules._words import blocked, ident, sql

SERIALS = {"serial": "integer", "bigserial": "bigint", "smallserial": "smallint"}
_INLINE = {"", "COLLATE", "NULL"}
_CONSTRAINTS = {"CHECK", "REFERENCES", "UNIQUE", "PRIMARY"}


class Cause(StrEnum):
    """Why ADD COLUMN writes every row anew; each has a rule."""

    NUMBERED = "serial or identity"
    GENERATED = "stored generated"
    DOMAIN = "constrained domain"
    DEFAULT = "volatile default"


def is_serial(column: Column) -> bool:
    """Tell whether the type is PostgreSQL's shorthand for a sequence."""
    return column.type.schema is None and column.type.name in SERIALS


def rewrite_cause(step: Step) -> Cause | None:
    """Tell why an ADD COLUMN rewrites, None where it does not."""
    assert isinstance(step.operation, AddColumn)
    if not blocked(step, Work.REWRITE):
        return None
    column = step.operation.column
    if column.identity or is_serial(column):
        return Cause.NUMBERED
    if column.generated == "stored":
        return Cause.GENERATED
    if column.default is None or free_type(step.schema, column.type) != column.type:
        return Cause.DOMAIN
    return Cause.DEFAULT


def in_steps(step: Step) -> str:
    """Write the column as a plain nullable one first, then default, rows, NOT NULL and constraints one by one."""
    operation = step.operation
    assert isinstance(operation, AddColumn)
    parts = _source.column(operation.clause)
    return _fixes.lines(_steps(step, operation, parts, rewrite_cause(step))) if parts else ""


def _steps(step: Step, operation: AddColumn, parts: list[_source.Part], cause: Cause | None) -> Iterator[str]:
    column, table = operation.column, operation.table
    kept = [part.text for part in parts if part.kind in _INLINE or (cause is None and part.kind in ("DEFAULT", "NOT"))]
    kept[0] = _head(step, column, kept[0], cause)
    exists = "IF NOT EXISTS " if operation.if_not_exists else ""
    yield alter(table, f"ADD COLUMN {exists}{' '.join(kept)}")
    yield from _filled(step, column, parts, cause)
    keyed = any(part.kind == "PRIMARY" for part in parts)  # the key makes it NOT NULL below
    if cause is not None and (column.not_null or cause is Cause.NUMBERED) and not keyed:
        yield from _fixes.not_null(step, table, column.name)
    if cause is Cause.DOMAIN:
        yield from _as_domain(step, table, column.name, str(column.type))
    for part in parts:
        yield from _constraint(step, table, column.name, part)


def _as_domain(step: Step, table: Name, column: str, domain: str) -> list[str]:
    """Let a CHECK hold what the domain would hold."""
    name = _fixes.named(step.schema, table, (column,), "check")
    return _fixes.not_valid(table, name, f"CHECK ({ident(column)}::{domain} IS NOT DISTINCT FROM {ident(column)})")


def _head(step: Step, column: Column, text: str, cause: Cause | None) -> str:
    if is_serial(column):
        return f"{ident(column.name)} {SERIALS[column.type.name]}"
    if cause is Cause.DOMAIN:
        return f"{ident(column.name)} {free_type(step.schema, column.type)}"
    return text


def _filled(step: Step, column: Column, parts: list[_source.Part], cause: Cause | None) -> Iterator[str]:
    """Give the column its values: for new rows first, then for those that stand."""
    operation = step.operation
    assert isinstance(operation, AddColumn)
    table, name = operation.table, ident(column.name)
    clause = next((part.text for part in parts if part.kind in ("DEFAULT", "GENERATED")), "")
    if cause is Cause.GENERATED:
        yield from _fixes.kept_equal(step, table, column.name, _source.parenthesised(clause, "AS"))
        return
    if cause is Cause.NUMBERED:
        sequence = _fixes.beside(table, _fixes.named(step.schema, table, (column.name,), "seq"))
        kind = _numbers(column)
        yield f"CREATE SEQUENCE {sequence}{kind} OWNED BY {sql(table)}.{name};"
        clause = "DEFAULT nextval('{}')".format(sequence.replace("'", "''"))
    elif cause is None or column.default is None:
        return
    yield alter(table, f"ALTER COLUMN {name} SET {clause}")
    yield _fixes.backfill(step, table, f"{name} = DEFAULT", f"{name} IS NULL")


def _numbers(column: Column) -> str:
    kind = SERIALS.get(column.type.name) or {"int4": "integer", "int2": "smallint"}.get(column.type.name)
    return f" AS {kind}" if kind else ""


def _constraint(step: Step, table: Name, column: str, part: _source.Part) -> Iterator[str]:
    """Write an inline constraint as one of the table, added without work under a lock."""
    if part.kind not in _CONSTRAINTS:
        return
    definition, of = _source.unnamed(part.text), (column,)
    written = _source.written_name(part.text)
    if part.kind in ("CHECK", "REFERENCES"):
        label, head = ("check", "") if part.kind == "CHECK" else ("fkey", f"FOREIGN KEY ({ident(column)}) ")
        name = written or _fixes.named(step.schema, table, of, label)
        yield from _fixes.not_valid(table, name, head + _source.constraint(definition))
    elif part.kind in ("UNIQUE", "PRIMARY") and (wanted := _fixes.key(definition, of)) is not None:
        name = written or _fixes.key_name(step.schema, table, of, primary=wanted.primary)
        yield from _fixes.unique(step, table, name, of, wanted)


def beside_the_old(step: Step) -> str:
    """Write a change of type as a second column that is kept equal and filled in batches."""
    operation = step.operation
    assert isinstance(operation, AlterColumnType)
    new = _fixes.new_name(step.schema, operation.table, operation.column)
    wanted, expression = _wanted(operation)
    if not wanted:
        return ""
    return _fixes.lines(_second(step, operation.table, new, operation.type, wanted, expression))


def _second(step: Step, table: Name, new: str, kind: Type, written: str, expression: str) -> Iterator[str]:
    """Write a second column that is kept equal to an expression; one of a constrained domain has its base type."""
    free = free_type(step.schema, kind)
    yield alter(table, f"ADD COLUMN {ident(new)} {written if free == kind else free}")
    yield from _fixes.kept_equal(step, table, new, expression)
    if free != kind:
        yield from _as_domain(step, table, new, str(kind))


def wanted_type(operation: AlterColumnType) -> str:
    """Return the type as the user wrote it, else as PostgreSQL calls it."""
    return _wanted(operation)[0] or str(operation.type)


def _wanted(operation: AlterColumnType) -> tuple[str, str]:
    """Return the type (with its collation) and the expression of USING as written; a cast where there is none."""
    wanted, plain, using = _written(operation.clause)
    return wanted, f"{ident(operation.column)}::{plain}" if using is None else using


@lru_cache(maxsize=16)
def _written(clause: str) -> tuple[str, str, str | None]:
    """Cut the type with its collation, the type alone, and the expression of USING out of a clause."""
    behind = _source.tail(clause, "TYPE_P")
    found = [word for word in _source.words(behind) if word.depth == 0]
    using = next((word for word in found if word.name == "USING"), None)
    wanted = behind[: using.start].strip() if using is not None else behind.strip()
    collate = next((word for word in found if word.name == "COLLATE"), None)
    plain = behind[: collate.start].strip() if collate is not None else wanted
    return wanted, plain, behind[using.end :].strip() if using is not None else None


def generated_beside(step: Step) -> str:
    """Write SET EXPRESSION as a second column, filled by trigger and batches; "" where the type is not known."""
    operation, table = step.operation, step.table()
    assert isinstance(operation, SetExpression)
    if table is None or operation.column not in table.columns:
        return ""
    new = _fixes.new_name(step.schema, operation.table, operation.column)
    kind, expression = table.columns[operation.column].type, _source.parenthesised(operation.clause, "AS")
    return _fixes.lines(_second(step, operation.table, new, kind, str(kind), expression))
