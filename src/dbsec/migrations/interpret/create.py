"""CREATE of relations: tables, views, indexes, sequences, triggers, rules and policies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dbsec.migrations import operations as op
from dbsec.migrations import tree
from dbsec.migrations.interpret import columns
from dbsec.migrations.interpret.rows import writes_in_with
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Operation
from dbsec.migrations.statement import Node, Statement

_PERSISTENCE = {"t": "temporary", "u": "unlogged"}
_INCLUDING = {4: "constraints", 8: "defaults", 16: "generated", 32: "identity", 64: "indexes"}
_TIMING = {2: "before", 64: "instead of"}
_EVENTS = {4: "insert", 8: "delete", 16: "update", 32: "truncate"}


def create_table(node: Node, statement: Statement, *, foreign: bool = False) -> Iterator[Operation]:
    """Read CreateStmt."""
    elements = node.get("tableElts", ())
    likes = [item["TableLikeClause"] for item in elements if "TableLikeClause" in item]
    parents = tree.names_of(node.get("inhRelations"))
    is_partition = "partbound" in node
    constraints = [item["Constraint"] for item in (*elements, *node.get("constraints", ())) if "Constraint" in item]
    yield op.CreateTable(
        tree.name_of(node["relation"]),
        tuple(columns.column_of(item["ColumnDef"]) for item in elements if "ColumnDef" in item),
        tuple(columns.constraint_of(item) for item in constraints),
        parents[0] if is_partition else None,
        columns.bound_of(node.get("partbound")),
        columns.partition_key(node.get("partspec")),
        () if is_partition else parents,
        tree.names_of(like["relation"] for like in likes),
        persistence_of(node["relation"]),
        bool(node.get("if_not_exists")),
        tuple(_included(like.get("options", 0)) for like in likes),
        foreign,
        tree.type_name(node["ofTypename"]) if "ofTypename" in node else None,
        clause=statement.text,
    )


def create_foreign_table(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read CreateForeignTableStmt."""
    return create_table(node["base"], statement, foreign=True)


def persistence_of(relation: Node) -> str:
    """Tell the persistence that a RangeVar asks for; the schema pg_temp is temporary too."""
    if relation.get("schemaname") == "pg_temp":
        return "temporary"
    return _PERSISTENCE.get(relation.get("relpersistence", "p"), "permanent")


def _included(options: int) -> frozenset[str]:
    return frozenset(word for bit, word in _INCLUDING.items() if options & bit)


def create_table_as(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read CreateTableAsStmt."""
    yield from writes_in_with(node["query"], statement)
    yield _table_as(node["into"], node["query"], node, statement)


def select_into(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read a SelectStmt with an INTO clause."""
    yield _table_as(node["intoClause"], {"SelectStmt": node}, {}, statement)


def _table_as(into: Node, query: Node, node: Node, statement: Statement) -> Operation:
    return op.CreateTableAs(
        tree.name_of(into["rel"]),
        node.get("objtype") == "OBJECT_MATVIEW",
        tree.relations_in({"query": query}),
        not into.get("skipData"),
        bool(node.get("if_not_exists")),
        persistence_of(into["rel"]) == "temporary",
        tree.texts(into.get("colNames")),
        query,
        clause=statement.text,
    )


def create_view(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read ViewStmt; a recursive view does not read itself."""
    query = node["query"]
    yield op.CreateView(
        tree.name_of(node["view"]),
        tree.relations_in(query),
        tuple(dict.fromkeys(_column_read(parts) for parts in tree.column_refs(query))),
        bool(node.get("replace")),
        query,
        tree.texts(node.get("aliases")),
        clause=statement.text,
    )


def _column_read(parts: tuple[str, ...]) -> tuple[str, str]:
    *qualifier, column = parts
    return (str(tree.dotted(qualifier)) if qualifier else "", column)


def create_index(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read IndexStmt."""
    keys, expressions = columns.keys_of(item["IndexElem"] for item in node.get("indexParams", ()))
    included = (item["IndexElem"] for item in node.get("indexIncludingParams", ()))
    yield op.CreateIndex(
        node.get("idxname"),
        tree.name_of(node["relation"]),
        keys,
        columns.keys_of(included)[0],
        expressions,
        node.get("whereClause"),
        bool(node.get("unique")),
        node.get("accessMethod", "btree"),
        bool(node.get("concurrent")),
        not node["relation"].get("inh"),
        bool(node.get("if_not_exists")),
        _collations(node),
        clause=statement.text,
    )


def _collations(node: Node) -> tuple[str | None, ...]:
    written = [tree.texts(item["IndexElem"].get("collation")) for item in node.get("indexParams", ())]
    return tuple(parts[-1] if parts else None for parts in written) if any(written) else ()


def create_sequence(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read CreateSeqStmt."""
    written = tree.option(node.get("options"), "as")
    kind = columns.type_of(written["arg"]["TypeName"]) if written else None
    yield op.CreateSequence(tree.name_of(node["sequence"]), kind, _owner(node), clause=statement.text)


def _owner(node: Node) -> tuple[Name, str] | None:
    written = tree.option(node.get("options"), "owned_by")
    parts = tree.texts(written["arg"]["List"]["items"]) if written else ()
    return (tree.dotted(parts[:-1]), parts[-1]) if len(parts) > 1 else None


def alter_sequence(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read AlterSeqStmt."""
    options = tuple(item["DefElem"].get("defname", "") for item in node.get("options", ()))
    yield op.AlterSequence(tree.name_of(node["sequence"]), options, _owner(node), clause=statement.text)


def create_trigger(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read CreateTrigStmt."""
    yield op.CreateTrigger(
        node.get("trigname", ""),
        tree.name_of(node["relation"]),
        _TIMING.get(node.get("timing", 0), "after"),
        tuple(word for bit, word in _EVENTS.items() if node.get("events", 0) & bit),
        bool(node.get("row")),
        bool(node.get("isconstraint")),
        (*tree.texts(node.get("columns")), *tree.columns_in(node.get("whenClause"))),
        clause=statement.text,
    )


def create_rule(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read RuleStmt."""
    yield op.CreateRule(
        node.get("rulename", ""),
        tree.name_of(node["relation"]),
        node.get("event", "").removeprefix("CMD_").lower(),
        bool(node.get("instead")) and not node.get("actions"),
        "whereClause" in node,
        clause=statement.text,
    )


def create_policy(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read CreatePolicyStmt and AlterPolicyStmt."""
    yield op.CreatePolicy(
        node.get("policy_name", ""),
        tree.name_of(node["table"]),
        bool(node.get("permissive")) or statement.kind == "AlterPolicyStmt",
        statement.kind == "AlterPolicyStmt",
        tuple(_own_columns([node.get("qual"), node.get("with_check")], node["table"].get("relname", ""))),
        clause=statement.text,
    )


def _own_columns(expression: Any, table: str, *, outer: bool = True) -> Iterator[str]:
    """Yield the columns of a policy's own table: bare ones outside of subqueries, qualified ones anywhere."""
    if isinstance(expression, list):
        for one in expression:
            yield from _own_columns(one, table, outer=outer)
    elif isinstance(expression, dict):
        if "fields" in expression:
            parts = tree.texts(expression["fields"])
            if parts[-2:-1] == (table,) or (outer and len(parts) == 1):
                yield parts[-1]
        for key, value in expression.items():
            if isinstance(value, (dict, list)):
                yield from _own_columns(value, table, outer=outer and key != "subselect")
