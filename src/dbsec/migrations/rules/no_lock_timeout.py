"""MIG501: a statement waits for its lock without an end, and everybody else waits behind it."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.operations import LockTable, Operation
from dbsec.migrations.rule import Example, Hazard, Hit, Needs, Queues, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import is_off, knows
from dbsec.migrations.rules._words import target, waits


def _match(step: Step) -> Iterator[Hit]:
    if not is_off(step.session.setting("lock_timeout")):
        return
    if isinstance(step.operation, LockTable) and step.operation.nowait:
        return
    waited = _waits_for(step)
    if waited is None:
        return
    name, mode = waited
    yield Hit(
        target(step, name),
        f"{mode.sql} on '{name}' is waited for without an end, and {waits(mode)} behind it as long as one old "
        "transaction stands in its way",
        f"{'SET LOCAL' if step.statement.in_transaction else 'SET'} lock_timeout = '2s';\n"
        f"{step.statement.text.rstrip(';')};",
    )


def _waits_for(step: Step) -> tuple[Name, LockMode] | None:
    """Find the strongest lock on a relation of the running release that the transaction does not hold yet."""
    wanted = [
        (mode, name)
        for name, mode in step.effect.locks
        if mode.blocks_writes and knows(step, name) and step.session.held.get(name, 0) < mode
    ]
    if not wanted:
        return None
    mode, name = max(wanted, key=lambda one: one[0])
    return name, mode


RULE = Rule(
    code="MIG501",
    name="no-lock-timeout",
    title="A lock is waited for without a lock_timeout",
    severity=Severity.WARNING,
    hazard=Hazard.UNSAFE,
    applies=(Operation,),
    needs=Needs.LOCKS,
    match=_match,
    effect="A statement that waits for its lock stands in the queue, and everything that conflicts with it waits "
    "behind it, even a SELECT that would not conflict with those who hold the table now. One idle transaction and one "
    "ALTER TABLE, which itself takes a millisecond, stop all traffic on the table. Told once a script, at its first "
    "such statement.",
    instead="SET lock_timeout to some hundred milliseconds and try again where it ends with 55P03; take the time off "
    "again before CREATE INDEX CONCURRENTLY. SET LOCAL counts inside a transaction only.",
    example=Example(
        setup=USERS,
        bad="ALTER TABLE app.users ADD COLUMN country text;",
        good="SET lock_timeout = '300ms';\nALTER TABLE app.users ADD COLUMN country text;",
        proof=Queues("SELECT count(*) FROM app.users", "app.users"),
    ),
    source=("runtime-config-client", "explicit-locking"),
    aliases=("require-lock-timeout", "require-timeout-settings", "E9"),
    once=True,
)
