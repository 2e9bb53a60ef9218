"""MIG311: a function, sequence or extension goes while the running release calls it."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import CreateFunction, Drop
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import ROUTINES, contract, later_in_transaction, made
from dbsec.migrations.rules._words import target

_OTHERS = ("sequence", "extension", "operator", "operator class", "operator family", "collation", "cast", "server")
KINDS = (*ROUTINES, *_OTHERS)


def _match(step: Step) -> Iterator[Hit]:
    drop = step.operation
    assert isinstance(drop, Drop)
    if drop.kind not in KINDS or drop.cascade or made(step, drop.kind, drop.name):
        return
    if drop.if_exists and drop.kind in ROUTINES and _unknown_routine(step, drop):
        return
    again = drop.kind in ROUTINES and later_in_transaction(
        step, lambda later: isinstance(later, CreateFunction) and later.name == drop.name
    )
    yield Hit(
        target(step, drop.name),
        f"'{drop.name}' comes back in the same transaction: calls of the running release fail if their arguments no "
        "longer fit"
        if again
        else f"the running release may still use {drop.kind} '{drop.name}': its statements fail from here on",
        "-- in a file with '-- dbsec: phase contract', once no client of the old release is left:\n"
        f"-- {step.statement.text.rstrip(';')};",
        severity=Severity.WARNING if again else contract(step),
    )


def _unknown_routine(step: Step, drop: Drop) -> bool:
    """IF EXISTS of a function that a full schema does not have, in any schema."""
    return step.schema.known and not any(name.name == drop.name.name for name in step.schema.functions)


RULE = Rule(
    code="MIG311",
    name="drop-function-or-sequence",
    title="A function, sequence or extension is dropped that the running release may use",
    severity=Severity.ERROR,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(Drop,),
    match=_match,
    effect="PostgreSQL refuses the drop only where a catalog entry depends on the object (a trigger, a default, an "
    "index, a view); calls from the application and from bodies of other functions are no such entries. They fail from "
    "the commit on (42883, 42P01, 42704). A sequence's position is lost with it.",
    instead="Deploy a release that does not use it, and drop it in a later one. To change a function's arguments, "
    "create the new signature beside the old: PostgreSQL tells them apart by their arguments.",
    example=Example(
        setup=USERS
        + "CREATE FUNCTION app.shown(u bigint) RETURNS text LANGUAGE sql STABLE AS "
        + "'SELECT email FROM app.users WHERE id = u';\n",
        bad="DROP FUNCTION app.shown(bigint);",
        good="CREATE FUNCTION app.shown(u bigint, short boolean) RETURNS text LANGUAGE sql STABLE AS "
        "'SELECT left(email, 8) FROM app.users WHERE id = u';",
        proof=Breaks("SELECT app.shown(7)", "42883"),
    ),
    more=(
        Example(
            setup=USERS + "CREATE SEQUENCE app.tickets;\n",
            bad="DROP SEQUENCE app.tickets;",
            good="CREATE SEQUENCE app.tickets_of_next_release;",
            proof=Breaks("SELECT nextval('app.tickets')", "42P01"),
        ),
    ),
    source=("sql-dropfunction", "sql-dropsequence", "sql-dropextension"),
    aliases=("ban-drop-function", "ban-drop-sequence", "ban-drop-extension"),
)
