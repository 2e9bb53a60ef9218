"""MIG515: what a trigger kept up is no longer kept up."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import CreateTrigger, Drop, Operation, SetVariable, TriggerState
from dbsec.migrations.rule import Example, Hazard, Hit, Rule, Shows, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import contract, knows, later_in_transaction
from dbsec.migrations.rules._words import ident, sql, target


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    if isinstance(act, TriggerState):
        yield from _disabled(step, act)
    elif isinstance(act, Drop):
        yield from _dropped(step, act)
    elif isinstance(act, SetVariable) and act.name == "session_replication_role" and act.value == "replica":
        yield Hit(
            act.name,
            "no trigger fires and no foreign key is checked in this session from here on: rows that break the keys "
            "stay",
            "RESET session_replication_role;",
        )


def _disabled(step: Step, act: TriggerState) -> Iterator[Hit]:
    if act.enabled or not knows(step, act.table):
        return
    which = f"{act.what} '{act.name}'" if act.name else "every trigger (with ALL the foreign keys' too)"
    yield Hit(
        target(step, act.table, *([act.name] if act.name else [])),
        f"{which} is off for all sessions from the commit on: rows that the running release writes meanwhile lack its "
        "work, and ENABLE does not make up for it",
        "-- leave it on; to spare one session: SET LOCAL session_replication_role = replica (a superuser's), on rows "
        "that need no check\n"
        f"-- ALTER TABLE {sql(act.table)} ENABLE TRIGGER {ident(act.name) if act.name else 'USER'};",
    )


def _dropped(step: Step, drop: Drop) -> Iterator[Hit]:
    if drop.kind != "trigger" or drop.table is None or contract(step) or not knows(step, drop.table):
        return

    def again(later: Operation) -> bool:
        return isinstance(later, CreateTrigger) and later.table == drop.table

    made_here = any(
        isinstance(act, CreateTrigger) and act.name == drop.name.name and act.table == drop.table
        for _, act in step.preceding
    )
    table = step.schema.table(drop.table)
    missing = drop.if_exists and step.schema.known and table is not None and drop.name.name not in table.triggers
    if made_here or missing or later_in_transaction(step, again):
        return
    yield Hit(
        target(step, drop.table, drop.name.name),
        f"what trigger '{drop.name.name}' kept up (an audit trail, a copy, a derived column) ends, while the running "
        "release counts on it",
    )


RULE = Rule(
    code="MIG515",
    name="trigger-disabled",
    title="A trigger of the running release is disabled or dropped",
    severity=Severity.WARNING,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(TriggerState, Drop, SetVariable),
    match=_match,
    effect="DISABLE TRIGGER is for all sessions, not for the migration's own: writes of the running release go by "
    "without it from the commit on. DISABLE TRIGGER ALL and session_replication_role = replica switch the foreign keys "
    "off too, and nothing checks the rows afterwards.",
    instead="Let the trigger skip what the migration does (WHEN, or a setting that it reads with current_setting), "
    "replace it in one transaction (CREATE OR REPLACE TRIGGER), and drop it in the release after the one that stopped "
    "needing it.",
    example=Example(
        setup=USERS
        + "CREATE TABLE app.trail (id bigint, at timestamptz DEFAULT now());\n"
        + "CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS "
        + "$$ BEGIN INSERT INTO app.trail (id) VALUES (NEW.id); RETURN NEW; END $$;\n"
        + "CREATE TRIGGER users_trail AFTER UPDATE ON app.users FOR EACH ROW EXECUTE FUNCTION app.note();\n",
        bad="ALTER TABLE app.users DISABLE TRIGGER users_trail;\nUPDATE app.users SET status = 'old' WHERE id = 7;",
        good="CREATE OR REPLACE TRIGGER users_trail AFTER UPDATE ON app.users FOR EACH ROW WHEN (NEW IS DISTINCT FROM "
        "OLD) EXECUTE FUNCTION app.note();\n"
        "UPDATE app.users SET status = 'old' WHERE id = 7;",
        proof=Shows("SELECT count(*)::text FROM app.trail", "0"),
    ),
    source=("sql-altertable", "runtime-config-client", "sql-droptrigger"),
    aliases=("ban-drop-trigger", "ban-disable-trigger"),
)
