"""Parse tree to operations: a statement is told as the acts that it does, each in the record that fits it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec.structs import replace

from dbsec.migrations.interpret import alter_table, create, drop_rename, objects, rows, session
from dbsec.migrations.names import Name
from dbsec.migrations.operations import CreateOther, Operation, Other
from dbsec.migrations.statement import Node, Statement

_Reader = Callable[[Node, Statement], Iterator[Operation]]


def operations_of(statement: Statement) -> tuple[Operation, ...]:
    """Tell what a statement does, in the order in which PostgreSQL does it; what is not known is ``Other``."""
    return tuple(operations_in(statement.kind, statement.node, statement))


def operations_in(kind: str, node: Node, statement: Statement) -> Iterator[Operation]:
    """Tell what a node does that stands in a statement: the inner one of EXPLAIN ANALYZE or CREATE SCHEMA."""
    read = _READERS.get(kind)
    if read is None:
        return iter((Other(kind, clause=statement.text),))
    if kind != statement.kind:
        statement = replace(statement, kind=kind, node=node)
    return read(node, statement)


def _select(node: Node, statement: Statement) -> Iterator[Operation]:
    return (create.select_into if "intoClause" in node else rows.select)(node, statement)


def _create_schema(node: Node, statement: Statement) -> Iterator[Operation]:
    name = node.get("schemaname") or node.get("authrole", {}).get("rolename", "")
    yield CreateOther("schema", Name(None, name), clause=statement.text)
    for element in node.get("schemaElts", ()):
        for kind, inner in element.items():
            yield from operations_in(kind, _placed(inner, name), statement)


def _placed(node: Node, schema: str) -> Node:
    """Give the relation that an element of CREATE SCHEMA makes the schema's name, where it has none."""
    for key in ("relation", "view", "sequence"):
        if key in node and "schemaname" not in node[key]:
            return {**node, key: {**node[key], "schemaname": schema}}
    return node


_READERS: dict[str, _Reader] = {
    "AlterTableStmt": alter_table.alter_table,
    "CreateStmt": create.create_table,
    "CreateForeignTableStmt": create.create_foreign_table,
    "CreateTableAsStmt": create.create_table_as,
    "ViewStmt": create.create_view,
    "IndexStmt": create.create_index,
    "CreateSeqStmt": create.create_sequence,
    "AlterSeqStmt": create.alter_sequence,
    "CreateTrigStmt": create.create_trigger,
    "RuleStmt": create.create_rule,
    "CreatePolicyStmt": create.create_policy,
    "AlterPolicyStmt": create.create_policy,
    "CreateSchemaStmt": _create_schema,
    "CreateFunctionStmt": objects.create_function,
    "AlterFunctionStmt": objects.alter_function,
    "CreateEnumStmt": objects.create_enum,
    "CompositeTypeStmt": objects.create_composite,
    "CreateRangeStmt": objects.create_range,
    "DefineStmt": objects.define,
    "AlterEnumStmt": objects.alter_enum,
    "CreateDomainStmt": objects.create_domain,
    "AlterDomainStmt": objects.alter_domain,
    **objects.OTHERS,
    "DropStmt": drop_rename.drop,
    "DropdbStmt": drop_rename.drop_one,
    "DropTableSpaceStmt": drop_rename.drop_one,
    "DropSubscriptionStmt": drop_rename.drop_one,
    "DropUserMappingStmt": drop_rename.drop_one,
    "DropRoleStmt": drop_rename.drop_role,
    "RenameStmt": drop_rename.rename,
    "AlterObjectSchemaStmt": drop_rename.set_schema,
    "AlterOwnerStmt": drop_rename.change_owner,
    "CommentStmt": drop_rename.comment,
    "SecLabelStmt": drop_rename.comment,
    "GrantStmt": drop_rename.grant,
    "GrantRoleStmt": drop_rename.grant_role,
    "AlterDefaultPrivilegesStmt": drop_rename.default_privileges,
    "InsertStmt": rows.write,
    "UpdateStmt": rows.write,
    "DeleteStmt": rows.write,
    "MergeStmt": rows.write,
    "CopyStmt": rows.copy,
    "SelectStmt": _select,
    "CallStmt": rows.call,
    "ExplainStmt": rows.explain,
    "DeclareCursorStmt": rows.declare_cursor,
    "TransactionStmt": session.transaction,
    "VariableSetStmt": session.set_variable,
    "DiscardStmt": session.discard,
    "LockStmt": session.lock_table,
    "TruncateStmt": session.truncate,
    "VacuumStmt": session.vacuum,
    "ClusterStmt": session.cluster,
    "ReindexStmt": session.reindex,
    "RefreshMatViewStmt": session.refresh,
    "DoStmt": session.do_block,
}
