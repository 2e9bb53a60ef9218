"""MIG303: a table or view gets another name while the running release knows the old one."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Rename
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import RELATIONS, absent, comes_back, contract, knows
from dbsec.migrations.rules._words import ident, sql, target


def _match(step: Step) -> Iterator[Hit]:
    rename = step.operation
    assert isinstance(rename, Rename)
    if rename.kind not in RELATIONS or not knows(step, rename.name):
        return
    if rename.if_exists and absent(step, rename.name):
        return
    old, new = rename.name, Name(rename.name.schema, rename.new)
    if comes_back(step, old):
        yield Hit(
            target(step, old),
            f"'{old}' is a view or another table after this transaction: the running release reaches the rows only as "
            "far as that lets it (no TRUNCATE, no foreign keys to a view)",
            severity=Severity.WARNING,
        )
        return
    yield Hit(
        target(step, old),
        f"the running release still says '{old}': each of its statements on it fails with 42P01",
        _fix(step, old, new),
        severity=contract(step),
    )


def _fix(step: Step, old: Name, new: Name) -> str:
    rights = " WITH (security_invoker = true)" if step.major >= 15 else ""
    return "\n".join(
        [
            f"CREATE VIEW {sql(new)}{rights} AS SELECT * FROM {sql(old)};",
            "-- GRANT the roles of the new release the same rights on the view; it is updatable, and old and new names "
            "work",
            "-- contract, in a file with '-- dbsec: phase contract', once no client of the old release is left:",
            f"-- BEGIN; DROP VIEW {sql(new)}; ALTER TABLE {sql(old)} RENAME TO {ident(new.name)}; COMMIT;",
        ]
    )


RULE = Rule(
    code="MIG303",
    name="rename-table",
    title="A table or view is renamed that the running release uses",
    severity=Severity.ERROR,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(Rename,),
    match=_match,
    effect="RENAME changes the catalog under ACCESS EXCLUSIVE, at once. From then on the old name is unknown (42P01), "
    "while the new release needs the new one: there is no order of deploying both in which neither fails.",
    instead="Give the new name to a plain view over the table (PostgreSQL passes INSERT, UPDATE and DELETE through "
    "it), move the application to it, and rename in a later release, when nobody says the old name. Or map the name in "
    "the application and leave the table alone.",
    example=Example(
        setup=USERS,
        bad="ALTER TABLE app.users RENAME TO accounts;",
        good="CREATE VIEW app.accounts AS SELECT * FROM app.users;",
        proof=Breaks("INSERT INTO app.users (id, email) VALUES (5001, 'new@example.com')", "42P01"),
    ),
    more=(
        Example(
            setup=USERS + "CREATE VIEW app.contacts AS SELECT id, phone FROM app.users;\n",
            bad="ALTER VIEW app.contacts RENAME TO phone_book;",
            good="CREATE VIEW app.phone_book AS SELECT id, phone FROM app.users;",
            proof=Breaks("SELECT count(*) FROM app.contacts", "42P01"),
        ),
    ),
    source=("sql-altertable", "sql-createview"),
    aliases=("renaming-table", "rename_table"),
)
