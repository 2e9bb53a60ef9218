"""MIG309: an object moves to another schema while the running release looks for it in the old one."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.names import Name
from dbsec.migrations.operations import SetSchema
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import RELATIONS, comes_back, contract, knows, made
from dbsec.migrations.rules._words import ident, sql, target


def _match(step: Step) -> Iterator[Hit]:
    move = step.operation
    assert isinstance(move, SetSchema)
    relation = move.kind in RELATIONS
    if not knows(step, move.name) if relation else made(step, move.kind, move.name):
        return
    if relation and comes_back(step, move.name):
        message = f"'{move.name}' is a view or another table after this transaction, and no longer the same"
        yield Hit(target(step, move.name), message, severity=Severity.WARNING)
        return
    yield Hit(
        target(step, move.name),
        f"the running release looks for '{move.name}' where it was: its statements fail",
        _fix(step, move) if relation else "",
        severity=contract(step),
    )


def _fix(step: Step, move: SetSchema) -> str:
    new = Name(move.schema, move.name.name)
    rights = " WITH (security_invoker = true)" if step.major >= 15 else ""
    return "\n".join(
        [
            f"CREATE VIEW {sql(new)}{rights} AS SELECT * FROM {sql(move.name)};",
            "-- contract, in a file with '-- dbsec: phase contract', once no client of the old release is left:",
            f"-- BEGIN; DROP VIEW {sql(new)}; ALTER TABLE {sql(move.name)} SET SCHEMA {ident(move.schema)}; COMMIT;",
        ]
    )


RULE = Rule(
    code="MIG309",
    name="set-schema",
    title="An object that the running release uses moves to another schema",
    severity=Severity.ERROR,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(SetSchema,),
    match=_match,
    effect="SET SCHEMA changes the catalog under ACCESS EXCLUSIVE, with the table's indexes, constraints and own "
    "sequences. Names that are qualified with the old schema, or found through a search_path without the new one, are "
    "unknown from then on (42P01, 42883, 42704).",
    instead="Let a view in the new schema stand for the table, move the application, and move the table in a later "
    "release. Or put the new schema on every search_path first, where no statement qualifies the name.",
    example=Example(
        setup=USERS + "CREATE SCHEMA archive;\n",
        bad="ALTER TABLE app.users SET SCHEMA archive;",
        good="CREATE VIEW archive.users AS SELECT * FROM app.users;",
        proof=Breaks("SELECT count(*) FROM app.users", "42P01"),
    ),
    source=("sql-altertable", "ddl-schemas"),
    aliases=("ban-set-schema",),
)
