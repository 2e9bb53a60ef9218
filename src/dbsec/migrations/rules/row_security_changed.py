"""MIG314: which rows a role sees changes under the running release."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.names import Name
from dbsec.migrations.operations import CreatePolicy, Drop, RowSecurity
from dbsec.migrations.rule import Example, Hazard, Hit, Loses, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import knows, later_in_transaction
from dbsec.migrations.rules._words import ident, sql, target

_SETUP = (
    USERS
    + """\
GRANT USAGE, CREATE ON SCHEMA app TO pg_monitor;
GRANT SELECT ON app.users TO pg_monitor;
CREATE POLICY first_half ON app.users USING (id <= 500);
ALTER TABLE app.users ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION app.visible() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = app, pg_temp
    AS 'SELECT count(*) FROM app.users';
ALTER FUNCTION app.visible() OWNER TO pg_monitor;
"""
)
_SAID = {
    "disable": "every role with a grant sees and changes all rows from here on",
    "no force": "the table's owner, and what runs as it, sees and changes all rows from here on",
}


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    if isinstance(act, RowSecurity):
        table = step.table()
        off = table is not None and act.act == "disable" and not table.row_security
        if act.act in _SAID and knows(step, act.table) and not off:
            yield Hit(target(step, act.table), _SAID[act.act], f"-- {sql(act.table)}: leave row security as it is")
    elif isinstance(act, CreatePolicy) and knows(step, act.table):
        yield from _policy(step, act)
    elif isinstance(act, Drop) and act.kind == "policy" and act.table is not None and knows(step, act.table):
        yield from _dropped(step, act, act.table)


def _policy(step: Step, act: CreatePolicy) -> Iterator[Hit]:
    """ALTER POLICY, and a restrictive policy beside others; a permissive one only lets more rows through."""
    table = step.schema.table(act.table)
    if act.alter:
        said = f"policy '{act.name}' lets other rows through, or other roles, for sessions of the running release too"
    elif not act.permissive and table is not None and table.row_security:
        said = f"restrictive policy '{act.name}' hides rows that the running release sees, and refuses others"
    else:
        return
    yield Hit(target(step, act.table, act.name), said)


def _dropped(step: Step, drop: Drop, table: Name) -> Iterator[Hit]:
    def again(later: object) -> bool:
        return isinstance(later, CreatePolicy) and later.table == table and not later.alter

    known = step.schema.table(table)
    if later_in_transaction(step, again) or (
        known is not None and known.policies and drop.name.name not in known.policies
    ):
        return
    yield Hit(
        target(step, table, drop.name.name),
        f"without policy '{drop.name.name}' roles see no row (it was permissive) or rows of others (it was "
        "restrictive)",
        "-- in one transaction with the policy that takes its place:\n"
        f"-- BEGIN; CREATE POLICY …; DROP POLICY {ident(drop.name.name)} ON {sql(table)}; COMMIT;",
    )


RULE = Rule(
    code="MIG314",
    name="row-security-changed",
    title="Row level security is switched off, or another policy holds",
    severity=Severity.WARNING,
    hazard=Hazard.UNSAFE,
    applies=(RowSecurity, Drop, CreatePolicy),
    match=_match,
    effect="DISABLE ROW LEVEL SECURITY keeps the policies in the catalog and applies none of them; NO FORCE exempts "
    "the owner. Permissive policies are joined by OR and restrictive ones by AND, so that a dropped restrictive policy "
    "widens what is seen, and the last permissive one that goes hides every row.",
    instead="Replace a policy in one transaction: CREATE POLICY under a new name, then DROP the old one. If row "
    "security has to go, move what it enforced to where it is enforced from now on, and write down why.",
    example=Example(
        setup=_SETUP,
        bad="ALTER TABLE app.users DISABLE ROW LEVEL SECURITY;",
        good="BEGIN;\n"
        "DROP POLICY first_half ON app.users;\n"
        "CREATE POLICY half ON app.users USING (id BETWEEN 1 AND 500);\n"
        "COMMIT;",
        proof=Loses("SELECT app.visible()"),
    ),
    source=("ddl-rowsecurity", "sql-alterpolicy", "sql-droppolicy"),
    aliases=("ban-drop-policy", "ban-alter-policy-condition", "ban-alter-policy-roles", "ban-alter-row-level-security"),
)
