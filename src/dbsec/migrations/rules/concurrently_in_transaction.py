"""MIG503: a statement that PostgreSQL refuses inside a transaction."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import (
    Cluster,
    CreateIndex,
    CreateOther,
    DetachPartition,
    Drop,
    Operation,
    Other,
    Reindex,
    Vacuum,
)
from dbsec.migrations.rule import Example, Hazard, Hit, Needs, Refused, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._words import target
from dbsec.migrations.script import Script, Wrap
from dbsec.migrations.statement import Origin

_REFUSED = {
    "AlterSystemStmt": "ALTER SYSTEM",
    "CreatedbStmt": "CREATE DATABASE",
    "DropdbStmt": "DROP DATABASE",
    "CreateTableSpaceStmt": "CREATE TABLESPACE",
    "DropTableSpaceStmt": "DROP TABLESPACE",
}
_OUTSIDE = {
    "alembic": "with op.get_context().autocommit_block():",
    "flyway": "executeInTransaction=false in the file's .conf",
    "liquibase": "runInTransaction:false on the changeset",
    "dbmate": "-- migrate:up transaction:false",
    "goose": "-- +goose NO TRANSACTION",
    "prisma": "a migration that holds this statement alone",
}


def _match(step: Step) -> Iterator[Hit]:
    what = _refused(step)
    if not what or not step.statement.in_transaction:
        return
    statement = step.statement
    inside = "a DO block" if statement.origin is not Origin.DIRECT else _around(statement.script)
    yield Hit(
        _named(step),
        f"{what} in {inside} fails with 25001, and what the transaction did before it is undone",
        f"{statement.text.rstrip(';')};",
    )


def _refused(step: Step) -> str:
    match step.operation:
        case CreateIndex(concurrently=True):
            return "CREATE INDEX CONCURRENTLY"
        case Drop(kind="index", concurrently=True):
            return "DROP INDEX CONCURRENTLY"
        case Reindex() as reindex if reindex.concurrently or reindex.kind in ("schema", "database", "system"):
            return "REINDEX CONCURRENTLY" if reindex.concurrently else f"REINDEX {reindex.kind.upper()}"
        case DetachPartition(concurrently=True):
            return "DETACH PARTITION CONCURRENTLY"
        case Vacuum(analyze_only=False):
            return "VACUUM"
        case Cluster(table=None):
            return "CLUSTER of all tables"
    return _REFUSED.get(step.statement.kind, "")


def _around(script: Script) -> str:
    if script.wrap is Wrap.NONE:
        return "a transaction"
    way = _OUTSIDE.get(script.tool)
    return f"the transaction that {script.tool} opens around the file" + (f" (without one: {way})" if way else "")


def _named(step: Step) -> str:
    operation: Operation = step.operation
    if isinstance(operation, CreateIndex):
        return target(step, operation.table)
    if isinstance(operation, DetachPartition):
        return target(step, operation.partition)
    if isinstance(operation, Vacuum):
        return target(step, operation.tables[0]) if operation.tables else "the database"
    name = getattr(operation, "name", None)
    return str(name) if name else "the server"


RULE = Rule(
    code="MIG503",
    name="concurrently-in-transaction",
    title="A statement that PostgreSQL refuses inside a transaction",
    severity=Severity.ERROR,
    hazard=Hazard.FAILS,
    applies=(CreateIndex, Drop, Reindex, DetachPartition, Vacuum, Cluster, CreateOther, Other),
    needs=Needs.TRANSACTION,
    match=_match,
    effect="What commits several times by itself cannot stand in a transaction: PostgreSQL refuses it with 25001, and "
    "the statements before it are rolled back. A DO block, a function, a wrapped migration file and a string of "
    "several statements are transactions too.",
    instead="Put the statement outside of BEGIN and COMMIT, or into a migration file of its own that the tool does not "
    "wrap.",
    example=Example(
        setup=USERS,
        bad="BEGIN;\nALTER TABLE app.users ADD COLUMN country text;\n"
        "CREATE INDEX CONCURRENTLY users_phone_idx ON app.users (phone);\nCOMMIT;",
        good="ALTER TABLE app.users ADD COLUMN country text;\n"
        "CREATE INDEX CONCURRENTLY users_phone_idx ON app.users (phone);",
        proof=Refused("25001"),
    ),
    more=(
        Example(
            setup=USERS,
            bad="DO $$ BEGIN CREATE INDEX CONCURRENTLY users_phone_idx ON app.users (phone); END $$;",
            good="CREATE INDEX CONCURRENTLY users_phone_idx ON app.users (phone);",
            proof=Refused("25001"),
        ),
        Example(
            setup=USERS, bad="BEGIN;\nVACUUM app.users;\nCOMMIT;", good="VACUUM app.users;", proof=Refused("25001")
        ),
    ),
    source=("sql-createindex", "sql-reindex", "sql-vacuum"),
    aliases=("ban-concurrent-index-creation-in-transaction",),
    mechanical=True,
)
