"""MIG320: a published table loses what logical replication tells its rows by."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import ReplicaIdentity
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import knows
from dbsec.migrations.rules._words import sql, target


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, ReplicaIdentity)
    if act.kind == "nothing" and knows(step, act.table):
        yield Hit(
            target(step, act.table),
            "UPDATE and DELETE on it fail with 55000 if a publication holds the table",
            f"ALTER TABLE {sql(act.table)} REPLICA IDENTITY DEFAULT;",
        )


RULE = Rule(
    code="MIG320",
    name="replica-identity-nothing",
    title="REPLICA IDENTITY NOTHING on a table of the running release",
    severity=Severity.WARNING,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(ReplicaIdentity,),
    match=_match,
    effect="A table in a publication that publishes updates or deletes needs a replica identity. Without one "
    "PostgreSQL refuses each UPDATE and DELETE on it with 55000, on the publisher, for all clients.",
    instead="Keep the primary key as identity, or name a unique index over NOT NULL columns. Take the table out of its "
    "publications first, if it shall not be replicated.",
    example=Example(
        setup=USERS + "CREATE PUBLICATION example FOR TABLE app.users;\n",
        bad="ALTER TABLE app.users REPLICA IDENTITY NOTHING;",
        good="ALTER TABLE app.users REPLICA IDENTITY DEFAULT;",
        proof=Breaks("UPDATE app.users SET status = 'old' WHERE id = 7", "55000"),
    ),
    source=("logical-replication-publication", "sql-altertable"),
    aliases=("ban-replica-identity",),
)
