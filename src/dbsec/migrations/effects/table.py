"""Clauses of ALTER TABLE on the table itself and on options of its columns: most change the catalog alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbsec.migrations import tree
from dbsec.migrations.effects.draft import Draft
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import (
    AlterIdentity,
    AlterOther,
    ConstraintKind,
    DropDefault,
    DropExpression,
    OnTable,
    Operation,
    ReplicaIdentity,
    RowSecurity,
    SetAccessMethod,
    SetColumnOption,
    SetDefault,
    SetExpression,
    SetParameters,
    SetPersistence,
    SetTablespace,
    TriggerState,
)
from dbsec.migrations.schema.model import Table

_AX = LockMode.ACCESS_EXCLUSIVE
_SUX = LockMode.SHARE_UPDATE_EXCLUSIVE
_NO_TABLES = ("index", "sequence", "type")
_STRONG_PARAMETERS = {"user_catalog_table", "security_barrier", "check_option", "security_invoker"}
_WEAK_CLAUSES = {"AT_ClusterOn", "AT_DropCluster"}


def whole_family(operation: OnTable, draft: Draft) -> None:
    """Foretell what changes the catalog of a table and of all below it, under ACCESS EXCLUSIVE."""
    table = _table(operation, draft)
    if table is not None:
        draft.lock(_AX, *draft.family(table, only=operation.only))


def alone(operation: OnTable, draft: Draft) -> None:
    """Foretell what changes the catalog of one table, under ACCESS EXCLUSIVE."""
    table = _table(operation, draft)
    if table is not None:
        draft.lock(_AX, table)


def _table(operation: OnTable, draft: Draft) -> Table | None:
    return None if operation.relation in _NO_TABLES else draft.target(operation)


def alter_identity(operation: AlterIdentity, draft: Draft) -> None:
    """Foretell ADD, SET and DROP IDENTITY: rows that are there keep what they have."""
    whole_family(operation, draft)
    table = draft.table(operation.table)
    found = table.columns.get(operation.column)
    if operation.act == "add" and found is not None and not found.not_null:
        of = f'column "{operation.column}" of relation "{table.name.name}"'
        draft.fails(f"{of} must be declared NOT NULL before identity can be added")


def column_option(operation: SetColumnOption, draft: Draft) -> None:
    """Foretell SET STATISTICS, STORAGE, COMPRESSION and the options of a column."""
    table = _table(operation, draft)
    if table is None:
        return
    weak = operation.option in ("statistics", "options")
    only = operation.only or operation.option in ("options", "compression")
    draft.lock(_SUX if weak else _AX, *draft.family(table, only=only))


def set_parameters(operation: SetParameters, draft: Draft) -> None:
    """Foretell storage parameters."""
    table = _table(operation, draft)
    if table is not None:
        draft.lock(_AX if _STRONG_PARAMETERS & set(operation.names) or table.kind == "view" else _SUX, table)
        if table.partition_by:
            draft.fails("cannot specify storage parameters for a partitioned table")


def set_expression(operation: SetExpression, draft: Draft) -> None:
    """Foretell SET EXPRESSION (17): a stored value is computed anew for each row."""
    table = _table(operation, draft)
    if table is None:
        return
    family = draft.family(table, only=operation.only)
    draft.lock(_AX, *family)
    if draft.major < _SETS_EXPRESSIONS:
        draft.fails('syntax error at or near "EXPRESSION"')
    found = table.columns.get(operation.column)
    if found is None:
        draft.doubts()
    if found is not None and found.generated == "virtual":
        checks = table.of_kind(ConstraintKind.CHECK)
        if any(operation.column in tree.columns_in(check.expression) for check in checks):
            draft.fails(
                "SET EXPRESSION is not supported for virtual generated columns in tables with check constraints"
            )
        draft.proves("a virtual column stands in no row")
    else:
        draft.does(Work.REWRITE, family, "the stored value of each row is computed anew")


_SETS_EXPRESSIONS = 17


def set_persistence(operation: SetPersistence, draft: Draft) -> None:
    """Foretell SET LOGGED and SET UNLOGGED."""
    table = _table(operation, draft)
    if table is None:
        return
    draft.lock(_AX, table)
    now = table.persistence == "permanent"
    if table.partition_by:
        if draft.major >= _REFUSES_PARTITIONED:
            word = "LOGGED" if operation.logged else "UNLOGGED"
            draft.fails(f'ALTER action SET {word} cannot be performed on relation "{table.name.name}"')
        return
    if draft.complete(table) and now == operation.logged:
        draft.proves(f"{table.name} is {'logged' if now else 'unlogged'} already")
        return
    if not draft.complete(table):
        draft.doubts()
    _logged_neighbours(operation, table, draft)
    draft.does(Work.REWRITE, [table], "its file is written anew, through the WAL or past it")


_REFUSES_PARTITIONED = 18


def _logged_neighbours(operation: SetPersistence, table: Table, draft: Draft) -> None:
    """A logged table must not reference an unlogged one."""
    if operation.logged:
        keys = table.of_kind(ConstraintKind.FOREIGN_KEY)
        others = [draft.table(key.references) for key in keys if key.references not in (None, table.name)]
        if any(other.persistence != "permanent" for other in others):
            draft.fails(f'could not change table "{table.name.name}" to logged because it references an unlogged table')
        return
    holders = [holder for holder, _ in draft.schema.referencing(table.name) if holder is not table]
    if any(holder.persistence == "permanent" for holder in holders):
        draft.fails(f'could not change table "{table.name.name}" to unlogged because a logged table references it')


def set_tablespace(operation: SetTablespace, draft: Draft) -> None:
    """Foretell SET TABLESPACE: the whole file is copied."""
    table = _table(operation, draft)
    if table is not None:
        draft.lock(_AX, table)
        if operation.tablespace == "pg_default":
            draft.doubts()  # the table may well be there already
        if not table.partition_by:
            draft.does(Work.REWRITE, [table], "its file is copied to the other tablespace")


def set_access_method(operation: SetAccessMethod, draft: Draft) -> None:
    """Foretell SET ACCESS METHOD."""
    table = _table(operation, draft)
    if table is None:
        return
    draft.lock(_AX, table)
    if operation.method in (None, "heap"):
        draft.proves("heap is the access method that a table has unless something else was written")
    elif not table.partition_by:
        draft.does(Work.REWRITE, [table], f"each row is written to the access method {operation.method}")


def trigger_state(operation: TriggerState, draft: Draft) -> None:
    """Foretell ENABLE and DISABLE TRIGGER (writers wait) and RULE (all wait)."""
    table = _table(operation, draft)
    if table is None:
        return
    if operation.what == "rule":
        draft.lock(_AX, table)
        return
    some = operation.name is not None or bool(table.triggers)
    if not some and "user" not in operation.clause.lower().split():  # ALL: a foreign key is triggers too
        some = any(table.of_kind(ConstraintKind.FOREIGN_KEY)) or any(draft.schema.referencing(table.name))
    cloned = table.partition_by is not None and some
    draft.lock(LockMode.SHARE_ROW_EXCLUSIVE, *draft.family(table, only=operation.only or not cloned))


def other_clause(operation: AlterOther, draft: Draft) -> None:
    """Foretell a clause that has no record of its own."""
    table = _table(operation, draft)
    if table is not None:
        draft.lock(_SUX if operation.act in _WEAK_CLAUSES else _AX, table)


FORETOLD: dict[type[Operation], Callable[[Any, Draft], None]] = {
    SetDefault: whole_family,
    DropDefault: whole_family,
    DropExpression: whole_family,
    AlterIdentity: alter_identity,
    SetExpression: set_expression,
    SetColumnOption: column_option,
    SetParameters: set_parameters,
    SetPersistence: set_persistence,
    SetTablespace: set_tablespace,
    SetAccessMethod: set_access_method,
    RowSecurity: alone,
    ReplicaIdentity: alone,
    TriggerState: trigger_state,
    AlterOther: other_clause,
}
