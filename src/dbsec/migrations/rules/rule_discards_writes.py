"""MIG408: a rule throws writes away, and nobody is told."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import CreateRule
from dbsec.migrations.rule import Example, Hazard, Hit, Rule, Shows, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import knows
from dbsec.migrations.rules._words import target


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, CreateRule)
    is_view = step.table() is None and step.schema.view(act.table) is not None
    if not act.discards or is_view or not knows(step, act.table):
        return
    which = "some rows" if act.filtered else "all rows"
    yield Hit(
        target(step, act.table, act.name),
        f"{act.event.upper()} on '{act.table}' does nothing for {which} from the commit on, and still reports success: "
        "what the running release writes there is lost",
        severity=Severity.WARNING if act.filtered else None,
    )


RULE = Rule(
    code="MIG408",
    name="rule-discards-writes",
    title="A rule discards the writes to a table",
    severity=Severity.ERROR,
    hazard=Hazard.LOSES_DATA,
    applies=(CreateRule,),
    match=_match,
    effect="DO INSTEAD NOTHING takes the statement away before it is planned: no row is written, no trigger fires, no "
    "error is raised, and the client reads a success with zero rows. COPY goes past rules, so that a load still works "
    "in a test. With WHERE only the rows of the condition are lost, and the finding is a warning.",
    instead="Refuse loudly what shall not be written any more: a BEFORE trigger that raises, or REVOKE once no release "
    "writes. To skip duplicates write INSERT … ON CONFLICT DO NOTHING in the application.",
    example=Example(
        setup=USERS + "CREATE FUNCTION app.refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'closed'; END $$;\n",
        bad="CREATE RULE users_frozen AS ON UPDATE TO app.users DO INSTEAD NOTHING;\n"
        "UPDATE app.users SET status = 'old' WHERE id = 7;",
        good="CREATE TRIGGER users_frozen BEFORE UPDATE ON app.users FOR EACH ROW WHEN (OLD.status = 'closed') "
        "EXECUTE FUNCTION app.refuse();\n"
        "UPDATE app.users SET status = 'old' WHERE id = 7;",
        proof=Shows("SELECT count(*)::text FROM app.users WHERE status = 'old'", "0"),
    ),
    source=("sql-createrule", "rules-update"),
)
