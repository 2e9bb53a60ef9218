"""Does a statement fit the schema that was given: a dump of last year gives verdicts on a database that is gone."""

from __future__ import annotations

from dbsec.migrations.names import Name
from dbsec.migrations.operations import (
    AddColumn,
    CreateIndex,
    CreatePolicy,
    CreateTrigger,
    Drop,
    LockTable,
    OnTable,
    Operation,
    Refresh,
    Rename,
    Truncate,
    Write,
)
from dbsec.migrations.schema.model import Schema

_RELATIONS = {"table", "view", "materialized view", "foreign table"}
_OTHERS = {"index", "sequence", "type"}
_OF_TOOLS = (  # a tool makes its own table where it needs it
    *("alembic_version", "databasechangelog", "databasechangeloglock", "django_migrations"),
    *("flyway_schema_history", "goose_db_version", "schema_migrations", "_prisma_migrations"),
)


def missing(operation: Operation, schema: Schema) -> str:
    """Say which table or column of an operation is in neither schema nor release, "" where all are there."""
    for name in _tables(operation):
        if not _exists(name, schema):
            return f"table '{name}' is not in {_source(schema)}, nor made by these files before this statement"
    return _missing_column(operation, schema)


def _source(schema: Schema) -> str:
    return f"'{schema.source}'" if schema.source else "the schema"


def _exists(name: Name, schema: Schema) -> bool:
    if name.schema in ("pg_catalog", "information_schema") or name.name.startswith(("pg_", "dbsec_unknown")):
        return True
    if name.name in _OF_TOOLS:
        return True
    return schema.table(name) is not None or schema.view(name) is not None


def _tables(operation: Operation) -> tuple[Name, ...]:
    match operation:
        case OnTable():
            return () if operation.if_exists or operation.relation in _OTHERS else (operation.table,)
        case CreateIndex() | CreateTrigger() | CreatePolicy() | Write():
            return (operation.table,)
        case Truncate() | LockTable():
            return operation.tables
        case Refresh():
            return (operation.view,)
        case Drop() if operation.kind in _RELATIONS and not operation.if_exists:
            return (operation.name,)
        case Rename() if not operation.if_exists:
            if operation.table is not None:
                return (operation.table,) if operation.kind == "column" else ()
            return (operation.name,) if operation.kind in _RELATIONS else ()
    return ()


def _missing_column(operation: Operation, schema: Schema) -> str:
    if not isinstance(operation, OnTable) or isinstance(operation, AddColumn) or operation.relation != "table":
        return ""
    column, table = getattr(operation, "column", None), schema.table(operation.table)
    if column is None or table is None or not table.columns or table.inherits or column in table.columns:
        return ""
    if getattr(operation, "if_column_exists", False):
        return ""
    return f"column '{column}' of '{table.name}' is not in {_source(schema)}, nor added by these files before"
