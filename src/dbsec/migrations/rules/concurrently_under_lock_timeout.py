"""MIG508: a lock_timeout cuts CREATE INDEX CONCURRENTLY off and leaves half of it."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import CreateIndex, DetachPartition, Drop, Reindex
from dbsec.migrations.rule import Example, Hazard, Hit, Refused, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import is_off
from dbsec.migrations.rules._words import is_empty, target

_LEFT = {
    CreateIndex: "an INVALID index stays behind, which costs every write and serves no query",
    Reindex: "an INVALID copy of the index (…_ccnew) stays behind",
    Drop: "the index stays behind, INVALID",
    DetachPartition: "the partition stays half detached until DETACH … FINALIZE",
}


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, (CreateIndex, Drop, Reindex, DetachPartition))
    limit = step.session.setting("lock_timeout")
    if not act.concurrently or step.statement.in_transaction or is_off(limit):
        return
    if isinstance(act, CreateIndex) and is_empty(step.schema, act.table):
        return
    name = (
        act.partition if isinstance(act, DetachPartition) else getattr(act, "table", None) or getattr(act, "name", None)
    )
    yield Hit(
        target(step, name) if name is not None else "the database",
        f"it waits for every older transaction of the database; after lock_timeout {limit} it gives up, and "
        f"{_LEFT[type(act)]}",
        f"SET lock_timeout = 0;\n{step.statement.text.rstrip(';')};\nSET lock_timeout = '{limit}';",
    )


RULE = Rule(
    code="MIG508",
    name="concurrently-under-lock-timeout",
    title="CONCURRENTLY under a lock_timeout",
    severity=Severity.WARNING,
    hazard=Hazard.FAILS,
    applies=(CreateIndex, Drop, Reindex, DetachPartition),
    match=_match,
    effect="CONCURRENTLY commits on the way and then waits until every transaction with an older snapshot has ended, "
    "on any table. That wait is a lock wait: lock_timeout ends it with 55P03 and the half that is committed stays. The "
    "wait itself blocks nobody.",
    instead="SET lock_timeout = 0 before it, and bound it by a generous statement_timeout. Look in pg_index for "
    "indisvalid afterwards; an INVALID index is dropped with DROP INDEX CONCURRENTLY before the next try.",
    example=Example(
        setup=USERS,
        bad="SET lock_timeout = '300ms';\nCREATE INDEX CONCURRENTLY users_phone_idx ON app.users (phone);",
        good="SET lock_timeout = 0;\nCREATE INDEX CONCURRENTLY users_phone_idx ON app.users (phone);",
        proof=Refused("55P03", blocker="UPDATE app.users SET status = 'old' WHERE id = 7"),
    ),
    source=("sql-createindex", "runtime-config-client"),
)
