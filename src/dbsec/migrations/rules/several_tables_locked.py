"""Two busy tables under ACCESS EXCLUSIVE in one transaction."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Operation
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules._words import is_old
from dbsec.migrations.schema.model import Schema


def _match(step: Step) -> Iterator[Hit]:
    if not step.statement.in_transaction or not step.effect.locks:
        return
    held = {_root(step.schema, name) for name, mode in step.session.held.items() if mode is LockMode.ACCESS_EXCLUSIVE}
    held = {name for name in held if is_old(step.schema, name)}
    if len(held) != 1:
        return  # the second table tells it; a third one adds nothing
    first = next(iter(held))
    for name, mode in step.effect.locks:
        if mode is LockMode.ACCESS_EXCLUSIVE and _root(step.schema, name) != first and is_old(step.schema, name):
            yield Hit(
                str(name),
                f"the transaction holds ACCESS EXCLUSIVE on '{first}' and asks for it on '{name}': a session that uses "
                f"both in the other order is a deadlock, and '{first}' stays shut while it waits for '{name}'",
                table=name,
            )
            return


def _root(schema: Schema, name: Name) -> Name:
    """A partition stands for its parent: they are locked together."""
    known = schema.table(name)
    while known is not None and known.partition_of is not None:
        name, known = known.partition_of, schema.table(known.partition_of)
    return name


RULE = Rule(
    code="MIG112",
    name="several-tables-locked",
    title="One transaction shuts two tables, one after the other",
    severity=Severity.WARNING,
    hazard=Hazard.BLOCKS_ALL,
    applies=(Operation,),
    needs=Needs.TRANSACTION,
    match=_match,
    effect="Locks are kept to COMMIT: the first table stays shut while the second is waited for, and a session that "
    "holds the second and wants the first makes a deadlock (40P01), which ends one of the two.",
    instead="One transaction a table: commit between the statements, or split the migration. Where they must come "
    "together, LOCK TABLE a, b IN ACCESS EXCLUSIVE MODE NOWAIT first and try again.",
    example=Example(
        setup="CREATE TABLE orders (id bigint);\nCREATE TABLE users (id bigint);",
        bad="BEGIN;\nALTER TABLE orders ADD COLUMN note text;\nALTER TABLE users ADD COLUMN note text;\nCOMMIT;",
        good="ALTER TABLE orders ADD COLUMN note text;\nALTER TABLE users ADD COLUMN note text;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "orders"),
    ),
    source=("explicit-locking",),
)
