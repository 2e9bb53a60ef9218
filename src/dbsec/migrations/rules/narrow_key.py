"""MIG319: a primary key of 32 bits or less runs out."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import AddColumn, Column, ConstraintKind, CreateTable
from dbsec.migrations.rule import Example, Hazard, Hit, Refused, Rule, Step
from dbsec.migrations.rules._words import ident, target

_ENDS = {
    "int2": ("32,767", "bigint"),
    "smallserial": ("32,767", "bigserial"),
    "int4": ("2,147,483,647", "bigint"),
    "serial": ("2,147,483,647", "bigserial"),
}


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, (CreateTable, AddColumn))
    if isinstance(act, CreateTable) and (act.persistence == "temporary" or act.partition_of):
        return
    columns = {column.name: column for column in (act.columns if isinstance(act, CreateTable) else (act.column,))}
    outer = act.constraints if isinstance(act, CreateTable) else ()
    for column in columns.values():
        if column.type.name in _ENDS and not column.type.array and _counts(column) and _is_key(column, outer):
            end, wide = _ENDS[column.type.name]
            yield Hit(
                target(step, act.table, column.name),
                f"'{column.name}' ends at {end}: the insert after that fails, and widening it then rewrites the table",
                f"-- in the same statement: {ident(column.name)} {wide}",
            )


def _is_key(column: Column, outer: tuple[object, ...]) -> bool:
    for constraint in (*column.constraints, *outer):
        if getattr(constraint, "kind", None) is ConstraintKind.PRIMARY_KEY:
            return getattr(constraint, "columns", ()) in ((), (column.name,))
    return False


def _counts(column: Column) -> bool:
    """A key that a sequence fills; one that the application gives (a country, a status) need not grow."""
    return "serial" in column.type.name or bool(column.identity) or column.default is not None


RULE = Rule(
    code="MIG319",
    name="narrow-key",
    title="A primary key that counts has 32 bits or less",
    severity=Severity.WARNING,
    hazard=Hazard.FAILS,
    applies=(CreateTable, AddColumn),
    match=_match,
    effect="An integer key ends at 2,147,483,647, rolled back inserts and gaps counted. The insert after that fails "
    "(2200H from the sequence, 22003 from the column), and ALTER COLUMN TYPE bigint rewrites the table and all its "
    "indexes under ACCESS EXCLUSIVE, when it is largest; each column that refers to it has the same end.",
    instead="bigint from the start: four bytes a row, and often none, for rows are aligned to eight bytes.",
    example=Example(
        setup="CREATE SCHEMA app;",
        bad="CREATE TABLE app.events (id serial PRIMARY KEY, body text);\n"
        "SELECT setval('app.events_id_seq', 2147483647);\n"
        "INSERT INTO app.events (body) VALUES ('one more');",
        good="CREATE TABLE app.events (id bigserial PRIMARY KEY, body text);\n"
        "SELECT setval('app.events_id_seq', 2147483647);\n"
        "INSERT INTO app.events (body) VALUES ('one more');",
        proof=Refused("2200H"),
    ),
    source=("datatype-numeric",),
    aliases=("prefer-bigint-over-int", "prefer-bigint-over-smallint", "prefer-big-int"),
)
