"""Statements on rows: INSERT, UPDATE, DELETE, MERGE, COPY and SELECT, with those in their WITH clauses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dbsec.migrations import operations as op
from dbsec.migrations import tree
from dbsec.migrations.interpret.bounds import Limits, always, pins
from dbsec.migrations.operations import Operation, SetVariable, Write
from dbsec.migrations.statement import Node, Statement

_TARGET_KEYS = ("relation", "returningClause")
_MANY_ROWS = {"generate_series", "unnest", "regexp_split_to_table", "string_to_table", "generate_subscripts"}


def write(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read an InsertStmt, UpdateStmt, DeleteStmt or MergeStmt and the writes in its WITH clause."""
    yield from _write(statement.kind, node, statement)


def _write(kind: str, node: Node, statement: Statement, around: Limits | None = None) -> Iterator[Operation]:
    yield from _writes_below(node.get("withClause"), statement)
    yield _WRITES[kind](node, statement, Limits.of(node, statement, around))


def writes_in_with(query: Node, statement: Statement) -> Iterator[Operation]:
    """Yield the writes that stand in the WITH clauses of a query."""
    for inner in query.values():
        if isinstance(inner, dict):
            yield from _writes_below(inner.get("withClause"), statement)


def _writes_below(clause: Node | None, statement: Statement) -> Iterator[Operation]:
    limits = Limits.of({"withClause": clause}, statement) if clause else None
    for cte in clause.get("ctes", ()) if clause else ():
        for kind, inner in cte["CommonTableExpr"].get("ctequery", {}).items():
            if kind in _WRITES:
                yield from _write(kind, inner, statement, limits)


def _others(node: Node) -> Node:
    return {key: value for key, value in node.items() if key not in _TARGET_KEYS}


def _written(node: Node) -> tuple[str, ...]:
    targets = (item["ResTarget"].get("name", "") for item in node.get("cols") or node.get("targetList", ()))
    return tuple(dict.fromkeys(targets))


def _insert(node: Node, statement: Statement, limits: Limits) -> Write:
    query = node.get("selectStmt", {}).get("SelectStmt")
    return Write(
        "insert",
        tree.name_of(node["relation"]),
        _written(node),
        bounded=query is None or limits.on(query) or _one_row(query),
        reads=tree.relations_in(_others(node)),
        clause=statement.text,
    )


def _one_row(query: Node) -> bool:
    """Tell whether a SELECT has nothing to give but one row: no FROM, no UNION, no function that gives many."""
    if "fromClause" in query or "larg" in query:
        return False
    return not any(name.name in _MANY_ROWS for name in tree.functions_in(query))


def _update(node: Node, statement: Statement, limits: Limits) -> Write:
    return _with_where("update", node, statement, limits)


def _delete(node: Node, statement: Statement, limits: Limits) -> Write:
    return _with_where("delete", node, statement, limits)


def _with_where(kind: str, node: Node, statement: Statement, limits: Limits) -> Write:
    where = node.get("whereClause")
    if always(where):
        where = None
    found = pins(where, limits)
    return Write(
        kind,
        tree.name_of(node["relation"]),
        _written(node),
        where,
        bool(found),
        tree.relations_in(_others(node)),
        found,
        clause=statement.text,
    )


def _merge(node: Node, statement: Statement, limits: Limits) -> Write:
    clauses = (item["MergeWhenClause"] for item in node.get("mergeWhenClauses", ()))
    return Write(
        "merge",
        tree.name_of(node["relation"]),
        tuple(dict.fromkeys(column for clause in clauses for column in _written(clause))),
        node.get("joinCondition"),
        limits.source(node.get("sourceRelation")),
        tree.relations_in(_others(node)),
        clause=statement.text,
    )


_WRITES: dict[str, Callable[[Node, Statement, Limits], Write]] = {
    "InsertStmt": _insert,
    "UpdateStmt": _update,
    "DeleteStmt": _delete,
    "MergeStmt": _merge,
}


def copy(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read CopyStmt: COPY FROM writes, COPY TO reads."""
    if node.get("is_from"):
        table, columns = tree.name_of(node["relation"]), tree.texts(node.get("attlist"))
        yield Write("copy", table, columns, node.get("whereClause"), clause=statement.text)
    elif "relation" in node:
        yield op.Query((tree.name_of(node["relation"]),), clause=statement.text)
    else:
        yield from _inner(node["query"], statement)


def select(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read SelectStmt: writes in WITH, what set_config sets, and the query itself."""
    yield from _writes_below(node.get("withClause"), statement)
    functions = tree.functions_in(node)
    if any(name.name == "set_config" for name in functions):
        yield from _set_config(node, statement)
    reads = tree.relations_in(node)
    yield op.Query(reads, tuple(str(name) for name in functions), clause=statement.text)


def _set_config(node: Node, statement: Statement) -> Iterator[Operation]:
    for kind, inner in tree.walk(node):
        arguments = inner.get("args", ()) if kind == "FuncCall" else ()
        if len(arguments) == 3 and tree.texts(inner.get("funcname"))[-1:] == ("set_config",):
            name, value, local = (tree.constant(argument) for argument in arguments)
            if name is not None and value is not None:
                yield SetVariable(name.lower(), value, local in ("true", "t", "1"), clause=statement.text)


def call(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read CallStmt."""
    called = {"FuncCall": node["funccall"]}
    functions = tuple(str(name) for name in tree.functions_in(called))
    yield op.Query(tree.relations_in(called), functions, clause=statement.text)


def explain(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read ExplainStmt: with ANALYZE the statement runs, without it is only read."""
    if tree.switched_on(tree.option(node.get("options"), "analyze")):
        yield from _inner(node["query"], statement)
    else:
        yield op.Query(tree.relations_in(node["query"]), clause=statement.text)


def declare_cursor(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read DeclareCursorStmt."""
    yield from _inner(node["query"], statement)


def _inner(query: Node, statement: Statement) -> Iterator[Operation]:
    from dbsec.migrations.interpret import operations_in

    for kind, node in query.items():
        yield from operations_in(kind, node, statement)
