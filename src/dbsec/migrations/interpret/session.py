"""Statements on the session: transactions, SET, LOCK, maintenance, DO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dbsec.migrations import operations as op
from dbsec.migrations import tree
from dbsec.migrations.names import Name, quoted
from dbsec.migrations.operations import Operation, SetVariable
from dbsec.migrations.statement import Node, Statement

_ACTS = {
    "TRANS_STMT_BEGIN": "begin",
    "TRANS_STMT_START": "begin",
    "TRANS_STMT_COMMIT": "commit",
    "TRANS_STMT_ROLLBACK": "rollback",
    "TRANS_STMT_SAVEPOINT": "savepoint",
    "TRANS_STMT_RELEASE": "release",
    "TRANS_STMT_ROLLBACK_TO": "rollback to",
    "TRANS_STMT_PREPARE": "prepare",
}
_NAMES_OF_SCHEMAS = ("search_path", "temp_tablespaces")


def transaction(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read TransactionStmt; COMMIT PREPARED and ROLLBACK PREPARED end no transaction of this session."""
    act = _ACTS.get(node["kind"])
    yield op.TransactionControl(act, clause=statement.text) if act else op.Other(statement.kind, clause=statement.text)


def set_variable(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read VariableSetStmt; RESET ALL sets the name ``all``."""
    local, text = bool(node.get("is_local")), statement.text
    match node["kind"]:
        case "VAR_SET_VALUE":
            yield SetVariable(node["name"].lower(), _value(node), local, clause=text)
        case "VAR_RESET_ALL":
            yield SetVariable("all", None, clause=text)
        case "VAR_SET_MULTI":
            yield from _transaction_modes(node, statement)
        case "VAR_SET_DEFAULT" | "VAR_RESET":
            yield SetVariable(node["name"].lower(), None, local, clause=text)


def _value(node: Node) -> str:
    values = [tree.constant(item) or "" for item in node.get("args", ())]
    if node["name"].lower() in _NAMES_OF_SCHEMAS:
        values = [quoted(value) for value in values]
    return ", ".join(values)


def _transaction_modes(node: Node, statement: Statement) -> Iterator[Operation]:
    """SET TRANSACTION is for the open transaction, SET SESSION CHARACTERISTICS for all that follow."""
    session = node.get("name") == "SESSION CHARACTERISTICS"
    for item in node.get("args", ()):
        if "DefElem" in item:
            name, value = item["DefElem"].get("defname", ""), tree.constant(item["DefElem"].get("arg"))
            yield SetVariable(f"default_{name}" if session else name, value, not session, clause=statement.text)


def discard(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read DiscardStmt; DISCARD ALL resets every variable."""
    if node.get("target") == "DISCARD_ALL":
        yield SetVariable("all", None, clause=statement.text)
    yield op.Other(statement.kind, clause=statement.text)


def lock_table(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read LockStmt."""
    relations = node.get("relations", ())
    wait, only = bool(node.get("nowait")), _only(relations)
    yield op.LockTable(tree.names_of(relations), node.get("mode", 8), wait, only, clause=statement.text)


def _only(relations: Iterable[Node]) -> tuple[Name, ...]:
    return tree.names_of(one for one in relations if not one["RangeVar"].get("inh"))


def truncate(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read TruncateStmt."""
    cascade = node.get("behavior") == "DROP_CASCADE"
    relations = node.get("relations", ())
    yield op.Truncate(tree.names_of(relations), cascade, _only(relations), clause=statement.text)


def vacuum(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read VacuumStmt: VACUUM and ANALYZE."""
    tables = (item["VacuumRelation"].get("relation", {}) for item in node.get("rels", ()))
    full = tree.switched_on(tree.option(node.get("options"), "full"))
    yield op.Vacuum(tree.names_of(tables), full, not node.get("is_vacuumcmd"), clause=statement.text)


def cluster(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read ClusterStmt."""
    table = tree.name_of(node["relation"]) if "relation" in node else None
    yield op.Cluster(table, node.get("indexname"), clause=statement.text)


def reindex(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read ReindexStmt."""
    kind = node["kind"].removeprefix("REINDEX_OBJECT_").lower()
    name = tree.name_of(node["relation"]) if "relation" in node else None
    if name is None and node.get("name"):
        name = Name(None, node["name"])
    concurrently = tree.switched_on(tree.option(node.get("params"), "concurrently"))
    yield op.Reindex(kind, name, concurrently, clause=statement.text)


def refresh(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read RefreshMatViewStmt."""
    view = tree.name_of(node["relation"])
    yield op.Refresh(view, bool(node.get("concurrent")), not node.get("skipData"), clause=statement.text)


def do_block(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read DoStmt; ``plpgsql`` has marked it where the text of an EXECUTE is not known."""
    yield op.Block(bool(node.get("dbsec_dynamic")), clause=statement.text)
