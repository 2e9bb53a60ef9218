"""MIG403: a whole schema or database goes."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import Drop, Other
from dbsec.migrations.rule import Example, Hazard, Hit, Loses, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import contract, made
from dbsec.migrations.rules._words import ident


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    if isinstance(act, Other):
        if step.statement.kind == "DropOwnedStmt":
            yield Hit(
                step.statement.text.removesuffix(";").split()[-1],
                "DROP OWNED drops every object of the role in this database, tables with their rows too",
                "-- REASSIGN OWNED BY the role TO another one first; then DROP OWNED takes only its rights",
            )
        return
    assert isinstance(act, Drop)
    if act.kind not in ("schema", "database") or made(step, act.kind, act.name):
        return
    name = act.name.name
    last = f"-- object by object, once no client of the old release is left; then\n-- DROP SCHEMA {ident(name)};"
    yield Hit(
        name,
        f"database '{name}' goes with all that it holds" if act.kind == "database" else _said(step, name, act.cascade),
        last if act.kind == "schema" else "",
        severity=None if act.cascade or act.kind == "database" else contract(step),
    )


def _said(step: Step, schema: str, cascade: bool) -> str:
    tables = sum(name.schema == schema for name in step.schema.tables)
    views = sum(name.schema == schema for name in step.schema.views if name not in step.schema.tables)
    held = f"{tables} tables and {views} views" if step.schema.known else "all that stands in it"
    if cascade:
        return f"schema '{schema}' goes with {held}, their rows, and what depends on them elsewhere"
    return f"schema '{schema}' goes, if it is empty; what the running release finds through it is unknown from then on"


RULE = Rule(
    code="MIG403",
    name="drop-schema-or-database",
    title="A schema or a database is dropped",
    severity=Severity.ERROR,
    hazard=Hazard.LOSES_DATA,
    applies=(Drop, Other),
    match=_match,
    effect="DROP SCHEMA … CASCADE drops every table, view, function and type in it, and what depends on them "
    "elsewhere. DROP DATABASE deletes the directory and cannot be rolled back. DROP OWNED drops whatever a role owns. "
    "Only a backup brings the rows back.",
    instead="Drop the objects by name, each in the release after the one that stopped using it, and the empty schema "
    "last, without CASCADE.",
    example=Example(
        setup=USERS,
        bad="DROP SCHEMA app CASCADE;",
        good="CREATE SCHEMA scratch;\nDROP SCHEMA scratch;",
        proof=Loses("SELECT count(*) FROM app.users"),
    ),
    source=("sql-dropschema", "sql-dropdatabase", "sql-drop-owned"),
    aliases=("ban-drop-schema", "ban-drop-database"),
)
