"""MIG313: row security is switched on, and no policy lets a row through."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import CreatePolicy, RowSecurity
from dbsec.migrations.rule import Example, Hazard, Hit, Loses, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._expand import short
from dbsec.migrations.rules._release import knows, later_in_transaction
from dbsec.migrations.rules._words import ident, sql, target

_SETUP = (
    USERS
    + """\
GRANT USAGE ON SCHEMA app TO PUBLIC;
GRANT SELECT ON app.users TO PUBLIC;
GRANT CREATE ON SCHEMA app TO pg_monitor;
CREATE FUNCTION app.visible() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = app, pg_temp
    AS 'SELECT count(*) FROM app.users';
ALTER FUNCTION app.visible() OWNER TO pg_monitor;
"""
)


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, RowSecurity)
    table = step.table()
    if (
        act.act != "enable"
        or not knows(step, act.table)
        or (table is not None and (table.policies or table.row_security))
    ):
        return

    def permits(later: object) -> bool:
        return isinstance(later, CreatePolicy) and later.permissive and later.table == act.table

    if any(permits(earlier) for _, earlier in step.preceding) or later_in_transaction(step, permits):
        return
    later = any(permits(one) for _, one in step.following)
    yield Hit(
        target(step, act.table),
        "every role but the owner sees no row and writes none"
        + (" until the policy that follows is committed" if later else ", as long as no policy lets it"),
        "\n".join(
            [
                "BEGIN;",
                f"CREATE POLICY {ident(short(f'{act.table.name}_as_before'))} ON {sql(act.table)} USING (true);",
                f"ALTER TABLE {sql(act.table)} ENABLE ROW LEVEL SECURITY;",
                "COMMIT;",
                "-- then narrower policies, one for each role and command, and this one goes",
            ]
        ),
    )


RULE = Rule(
    code="MIG313",
    name="row-security-without-policy",
    title="Row level security is enabled on a table without a policy",
    severity=Severity.WARNING,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(RowSecurity,),
    match=_match,
    effect="With row security on and no permissive policy, PostgreSQL shows no row and refuses each new one (42501) to "
    "all but superusers, roles with BYPASSRLS and, without FORCE, the table's owner. SELECT gives no error: it gives "
    "nothing.",
    instead="Create the policies first, or in the same transaction, and enable row security last.",
    example=Example(
        setup=_SETUP,
        bad="ALTER TABLE app.users ENABLE ROW LEVEL SECURITY;",
        good="BEGIN;\nCREATE POLICY everybody ON app.users USING (true);\n"
        "ALTER TABLE app.users ENABLE ROW LEVEL SECURITY;\nCOMMIT;",
        proof=Loses("SELECT app.visible()"),
    ),
    source=("ddl-rowsecurity", "sql-createpolicy"),
    aliases=("ban-alter-row-level-security",),
)
