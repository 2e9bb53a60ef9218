"""MIG315: a right is taken that the running release may need."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import Grant
from dbsec.migrations.rule import Example, Hazard, Hit, Rule, Shows, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import RELATIONS, contract, knows, made
from dbsec.migrations.rules._words import target


def _match(step: Step) -> Iterator[Hit]:
    revoke = step.operation
    assert isinstance(revoke, Grant)
    if revoke.grant or contract(step) or (revoke.kind == "schema" and revoke.privileges == ("create",)):
        return
    relation = revoke.kind in RELATIONS
    old = [name for name in revoke.names if (knows(step, name) if relation else not made(step, revoke.kind, name))]
    if not old:
        return
    what = ", ".join(revoke.privileges).upper() or "ALL"
    yield Hit(
        target(step, old[0]),
        f"statements of {', '.join(revoke.roles)} that need {what} fail with 42501 from here on, in open sessions too",
        "-- in a file with '-- dbsec: phase contract', once no client of the old release is left:\n"
        f"-- {step.statement.text.rstrip(';')};",
    )


RULE = Rule(
    code="MIG315",
    name="revoke-from-application",
    title="A right is revoked that the running release may need",
    severity=Severity.WARNING,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(Grant,),
    match=_match,
    effect="Rights are looked up at each statement: a session that is open loses them with the commit (42501), in the "
    "middle of its work. A role may hold the right by another way still (PUBLIC, a group), which the statement does "
    "not show.",
    instead="Deploy the release that no longer needs the right, watch that nobody uses it, and revoke afterwards.",
    example=Example(
        setup=USERS + "GRANT USAGE ON SCHEMA app TO pg_monitor;\nGRANT SELECT, UPDATE ON app.users TO pg_monitor;\n",
        bad="REVOKE UPDATE ON app.users FROM pg_monitor;",
        good="GRANT INSERT ON app.users TO pg_monitor;",
        proof=Shows("SELECT has_table_privilege('pg_monitor', 'app.users', 'update')::text", "false"),
    ),
    source=("sql-revoke", "ddl-priv"),
    aliases=("ban-revoke",),
)
