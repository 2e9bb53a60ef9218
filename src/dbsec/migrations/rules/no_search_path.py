"""MIG502: what a name means is left to whoever connects."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.names import Name
from dbsec.migrations.operations import (
    CreateFunction,
    CreateIndex,
    CreatePolicy,
    CreateSequence,
    CreateTable,
    CreateTableAs,
    CreateTrigger,
    CreateType,
    CreateView,
    Drop,
    OnTable,
    Operation,
    Rename,
    Truncate,
    Write,
)
from dbsec.migrations.rule import Example, Hazard, Hit, Rule, Shows, Step
from dbsec.migrations.rules._release import RELATIONS
from dbsec.migrations.rules._words import ident

_DEFAULT = "public"
_PLAIN_SQL = "sql"


def _match(step: Step) -> Iterator[Hit]:
    if step.session.setting("search_path") is not None:
        return
    made, used = _names(step.operation)
    for name in (*made, *used):
        if name.schema is None and (why := _made(step) if name in made else _used(step, name)):
            yield Hit(
                str(name),
                f"'{name}' names no schema and the script sets no search_path: {why}",
                f"SET search_path = {ident(_schema_of(step, name))}, pg_temp;\n{step.statement.text.rstrip(';')};",
            )
            return


def _names(operation: Operation) -> tuple[tuple[Name, ...], tuple[Name, ...]]:
    """Split the names of an operation into what it makes and what it finds."""
    match operation:
        case CreateTable() if operation.persistence == "temporary":
            return (), ()
        case CreateTable() | CreateTableAs():
            return (operation.table,), ()
        case CreateView():
            return ((), (operation.view,)) if operation.replace else ((operation.view,), ())
        case CreateFunction() | CreateType() | CreateSequence():
            return (operation.name,), ()
        case OnTable() | CreateIndex() | CreateTrigger() | CreatePolicy() | Write():
            return (), (operation.table,)
        case Truncate():
            return (), operation.tables
        case Drop() | Rename() if operation.table is not None or operation.kind in RELATIONS:
            return (), (operation.table or operation.name,)
    return (), ()


def _made(step: Step) -> str:
    if step.schema.known:
        schemas = {name.schema for name in step.schema.tables} - {_DEFAULT}
        return f"it lands in {_DEFAULT}, or in a schema named like the role" if schemas else ""
    return _unknown(step, "it lands in the first schema of whoever connects")


def _used(step: Step, name: Name) -> str:
    tables, views = step.schema.tables, step.schema.views
    held = [(schema, Name(schema, name.name)) for schema in tables.schemas | views.schemas]
    holders = sorted({schema or "" for schema, full in held if full in tables or full in views})
    if not holders and isinstance(step.operation, CreateView):
        return _made(step)
    if not holders:
        return "" if step.schema.known else _unknown(step, "another schema may hold one of this name")
    if len(holders) > 1:
        return f"{' and '.join(holders)} have one each"
    return "" if holders == [_DEFAULT] else f"it is in '{holders[0]}', which is on no default search_path"


def _unknown(step: Step, why: str) -> str:
    """Frameworks set the path when they connect; a plain SQL file runs with the path of whoever runs it."""
    return why if step.statement.script.tool == _PLAIN_SQL else ""


def _schema_of(step: Step, name: Name) -> str:
    known = step.schema.table(name)
    return known.name.schema or _DEFAULT if known is not None else _DEFAULT


RULE = Rule(
    code="MIG502",
    name="no-search-path",
    title="Names without a schema, and no search_path is set",
    severity=Severity.WARNING,
    hazard=Hazard.UNSAFE,
    applies=(
        OnTable,
        CreateTable,
        CreateTableAs,
        CreateView,
        CreateFunction,
        CreateType,
        CreateSequence,
        CreateIndex,
        CreateTrigger,
        CreatePolicy,
        Write,
        Truncate,
        Drop,
        Rename,
    ),
    match=_match,
    effect="A bare name is looked up along the search_path of the session, which the role, the database and the "
    "connection string can set, and whose default begins with a schema named like the role. The same file then changes "
    "another table in production than in the test, or one that somebody put there for it. Told once a script; not told "
    "where the schema (--schema, --dsn) shows that the name is in public alone, nor of a framework's files, which set "
    "the path when they connect.",
    instead="Write app.users, or begin the file with SET search_path = app, pg_temp.",
    example=Example(
        setup="CREATE SCHEMA app;\nCREATE SCHEMA legacy;\nCREATE TABLE app.users (id bigint PRIMARY KEY);\n"
        "CREATE TABLE legacy.users (id bigint PRIMARY KEY);\nCREATE TABLE users (id bigint PRIMARY KEY);\n",
        bad="ALTER TABLE users ADD COLUMN country text;",
        good="SET search_path = app, pg_temp;\nALTER TABLE users ADD COLUMN country text;",
        proof=Shows(
            "SELECT attrelid::regclass::text FROM pg_attribute WHERE attname = 'country' AND attrelid > 16383", "users"
        ),
    ),
    source=("ddl-schemas", "runtime-config-client"),
    aliases=("require-table-schema",),
    once=True,
)
