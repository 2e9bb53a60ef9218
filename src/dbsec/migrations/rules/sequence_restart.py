"""MIG325: a sequence goes back, and gives out keys that stand already."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import AlterIdentity, AlterSequence
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Rule, Step
from dbsec.migrations.rules._examples import ORDERS
from dbsec.migrations.rules._release import knows, made
from dbsec.migrations.rules._words import target


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    said = "if the new start is not past the greatest key, the running release's inserts fail with 23505"
    if isinstance(act, AlterSequence):
        if "restart" in act.options and not made(step, "sequence", act.name):
            yield Hit(target(step, act.name), said)
    elif isinstance(act, AlterIdentity) and act.act == "set" and _restarts(act.clause) and knows(step, act.table):
        yield Hit(target(step, act.table, act.column), said)


def _restarts(clause: str) -> bool:
    return "RESTART" in clause.upper().split()


RULE = Rule(
    code="MIG325",
    name="sequence-restart",
    title="A sequence of the running release is set back",
    severity=Severity.WARNING,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(AlterSequence, AlterIdentity),
    match=_match,
    effect="RESTART takes effect at once for all sessions. If the new start is not past the greatest key, each insert "
    "fails with 23505 until the sequence has caught up, and where no unique key stands, two rows get one number.",
    instead="Leave the sequence alone, or set it past the greatest key: SELECT setval('…', (SELECT max(id) FROM …)).",
    example=Example(
        setup=ORDERS,
        bad="ALTER SEQUENCE app.orders_id_seq RESTART WITH 1;",
        good="ALTER SEQUENCE app.orders_id_seq CACHE 20;",
        proof=Breaks("INSERT INTO app.orders (user_id, total) VALUES (7, 1)", "23505"),
    ),
    source=("sql-altersequence", "functions-sequence"),
    aliases=("ban-alter-sequence-values",),
)
