"""DDL that locks a table beside the one that it is about: foreign keys, DEFAULT partitions."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.names import Name
from dbsec.migrations.operations import (
    AddColumn,
    AddConstraint,
    AlterColumnType,
    AttachPartition,
    CreateTable,
    DropColumn,
    DropConstraint,
)
from dbsec.migrations.rule import Example, Hazard, Hit, Needs, Queues, Rule, Step
from dbsec.migrations.rules import _source
from dbsec.migrations.rules._release import is_off
from dbsec.migrations.rules._words import blocked, full, hazard, is_old, waits


def _match(step: Step) -> Iterator[Hit]:
    if not is_off(step.session.setting("lock_timeout")) or blocked(step):
        return
    subject = full(step.schema, step.operation.table)  # type: ignore[attr-defined] # all of ``applies`` have it
    beside = [(name, mode) for name, mode in step.effect.locks if name != subject and mode.blocks_writes]
    expected = _expected(step, subject) if beside else set()
    for name, mode in beside:
        if name not in expected and is_old(step.schema, name):
            yield Hit(
                str(name),
                f"the statement is about '{subject}' and locks '{name}' too, with {mode.sql}: while it waits for a "
                f"running transaction there, {waits(mode)} behind it, and no lock_timeout ends that",
                f"SET lock_timeout = '2s';\n{_source.bare(step.statement.text)};",
                hazard=hazard(mode),
                table=name,
            )


def _expected(step: Step, subject: Name) -> set[Name]:
    """The tables that the statement is about: the subject, its partitions, and what it attaches or is a part of."""
    found, waiting = {subject}, [subject]
    while waiting:
        below = [part.name for part in step.schema.partitions(waiting.pop())]
        default = {part for part in below if _is_default(step, part)} if subject not in below else set()
        found |= set(below) - (default if isinstance(step.operation, (AttachPartition, CreateTable)) else set())
        waiting += below
    if isinstance(step.operation, AttachPartition):
        found.add(full(step.schema, step.operation.partition))
    if isinstance(step.operation, CreateTable):
        parents = (step.operation.partition_of, *step.operation.inherits)
        found |= {full(step.schema, parent) for parent in parents if parent is not None}
    return found


def _is_default(step: Step, name: Name) -> bool:
    known = step.schema.table(name)
    return known is not None and known.bound is not None and known.bound.strategy == "default"


RULE = Rule(
    code="MIG110",
    name="second-table-locked",
    title="The statement locks a table that it does not seem to be about",
    severity=Severity.WARNING,
    hazard=Hazard.BLOCKS_WRITES,
    applies=(AddColumn, AddConstraint, AlterColumnType, AttachPartition, CreateTable, DropColumn, DropConstraint),
    needs=Needs.LOCKS,
    match=_match,
    effect="A foreign key puts its triggers on both tables: to add it takes SHARE ROW EXCLUSIVE on the referenced "
    "table (CREATE TABLE … REFERENCES too, although the new table is nobody's yet), to drop it takes ACCESS EXCLUSIVE "
    "there. ATTACH PARTITION and CREATE TABLE … PARTITION OF take ACCESS EXCLUSIVE on the DEFAULT partition.",
    instead="Set lock_timeout before and try again after a failure: the table that everybody refers to is mostly the "
    "busiest one. Keep such statements in a transaction of their own.",
    example=Example(
        setup="CREATE TABLE users (id bigint PRIMARY KEY);",
        bad="CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint REFERENCES users (id));",
        good="SET lock_timeout = '100ms';\n"
        "CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint REFERENCES users (id));",
        proof=Queues("LOCK TABLE users IN ROW EXCLUSIVE MODE", "users"),
    ),
    source=("sql-createtable", "sql-altertable", "explicit-locking"),
    aliases=("adding-foreign-key-constraint",),
)
