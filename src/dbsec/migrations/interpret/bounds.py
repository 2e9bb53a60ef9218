"""Does a WHERE hold a write to a bounded number of rows: a key pinned to constants, a range, or a LIMIT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from dbsec.migrations import tree
from dbsec.migrations.statement import Node, Origin, Statement

_LOWER, _UPPER = (">", ">="), ("<", "<=")


class Limits(Struct, frozen=True):
    """Names of WITH clauses and of subqueries in FROM that give a bounded number of rows.

    ``variables``: in PL/pgSQL a bare name beside a column may be a variable, so that it counts as a constant.
    """

    names: frozenset[str] = frozenset()
    variables: bool = False

    @staticmethod
    def of(node: Node, statement: Statement, around: Limits | None = None) -> Limits:
        """Collect those of one statement; ``around``: those of the statement whose WITH clause it stands in."""
        limits = Limits(around.names if around else frozenset(), statement.origin is not Origin.DIRECT)
        for cte in (node.get("withClause") or {}).get("ctes", ()):
            inner = cte["CommonTableExpr"]
            if limits.on(inner.get("ctequery", {}).get("SelectStmt")):
                limits = Limits(limits.names | {inner.get("ctename", "")}, limits.variables)
        sources = [*node.get("fromClause", ()), *node.get("usingClause", ())]
        aliases = frozenset(_alias(source) for source in sources if limits.source(source))
        return Limits(limits.names | aliases, limits.variables)

    def on(self, query: Node | None) -> bool:
        """Tell whether a SelectStmt gives a bounded number of rows."""
        if query is None:
            return False
        if "limitCount" in query and not tree.is_null(query["limitCount"]):
            return True
        if "valuesLists" in query:
            return True
        sources = query.get("fromClause", ())
        if len(sources) == 1 and self.source(sources[0]):
            return True
        return bool(sources) and bool(pins(query.get("whereClause"), self))

    def source(self, node: Node | None) -> bool:
        """Tell whether an item of FROM gives a bounded number of rows."""
        if node is None:
            return False
        if "RangeVar" in node:
            return "schemaname" not in node["RangeVar"] and node["RangeVar"].get("relname") in self.names
        return "RangeSubselect" in node and self.on(node["RangeSubselect"].get("subquery", {}).get("SelectStmt"))

    def holds(self, node: Any) -> bool:
        """Tell whether an expression is a constant, a parameter, a list of them, or a bounded subquery."""
        match node:
            case {"A_Const": constant}:
                return "boolval" not in constant and not constant.get("isnull")
            case {"ParamRef": _}:
                return True
            case {"TypeCast": {"arg": inner}} | {"NamedArgExpr": {"arg": inner}}:
                return self.holds(inner)
            case {"List": {"items": items}} | {"A_ArrayExpr": {"elements": items}} | {"RowExpr": {"args": items}}:
                return all(self.holds(item) for item in items)
            case {"A_Expr": {"kind": "AEXPR_OP", "rexpr": right, **rest}}:
                return self.holds(right) and ("lexpr" not in rest or self.holds(rest["lexpr"]))
            case {"SubLink": {"subselect": {"SelectStmt": query}, "subLinkType": kind}}:
                return kind == "EXPR_SUBLINK" or self.on(query)
            case {"ColumnRef": {"fields": fields}}:
                parts = tree.texts(fields)
                return self.variables if len(parts) == 1 else parts[-2] in self.names
        return False


def _alias(source: Node) -> str:
    inner: Node = next(iter(source.values()))
    return str(inner.get("alias", {}).get("aliasname") or inner.get("relname", ""))


def always(where: Node | None) -> bool:
    """Tell whether a WHERE holds for every row: TRUE, or a constant that equals itself (``1 = 1``)."""
    match where:
        case {"A_Const": {"boolval": {"boolval": True}}}:
            return True
        case {"A_Expr": {"kind": "AEXPR_OP", "name": [{"String": {"sval": "="}}], "lexpr": left, "rexpr": right}}:
            return tree.constant(left) is not None and tree.constant(left) == tree.constant(right)
    return False


def pins(where: Node | None, limits: Limits) -> tuple[str, ...]:
    """Return the columns by which a WHERE is bounded; empty where it is not."""
    if where is None:
        return ()
    match where:
        case {"CurrentOfExpr": _}:
            return ("ctid",)
        case {"BoolExpr": {"boolop": "AND_EXPR", "args": arguments}}:
            both = [column for argument in arguments for column in pins(argument, limits)]
            return tuple(dict.fromkeys([*both, *_ranges(arguments, limits)]))
        case {"BoolExpr": {"boolop": "OR_EXPR", "args": arguments}}:
            either = [pins(argument, limits) for argument in arguments]
            return tuple(dict.fromkeys(column for one in either for column in one)) if all(either) else ()
        case {
            "SubLink": {"subLinkType": "ANY_SUBLINK", "testexpr": tested, "subselect": {"SelectStmt": query}, **rest}
        }:
            return _columns(tested) if "operName" not in rest and limits.on(query) else ()
        case {"A_Expr": inner}:
            return _compared(inner, limits)
    return ()


def _compared(node: Node, limits: Limits) -> tuple[str, ...]:
    left, right, operator = node.get("lexpr"), node.get("rexpr"), tree.texts(node.get("name"))[-1:]
    match node["kind"]:
        case "AEXPR_OP" | "AEXPR_NOT_DISTINCT" if operator == ("=",):
            return _columns(left) if limits.holds(right) else _columns(right) if limits.holds(left) else ()
        case "AEXPR_IN" | "AEXPR_OP_ANY" if operator == ("=",):
            return _columns(left) if limits.holds(right) else ()
        case "AEXPR_BETWEEN" | "AEXPR_BETWEEN_SYM":
            return _columns(left) if limits.holds(right) else ()
    return ()


def _columns(node: Node | None) -> tuple[str, ...]:
    """Name the column of a bare reference or, of a row, all its columns; () for any other expression."""
    match node:
        case {"ColumnRef": {"fields": fields}}:
            return tree.texts(fields)[-1:]
        case {"RowExpr": {"args": arguments}}:
            return tuple(column for argument in arguments for column in _columns(argument))
        case {"TypeCast": {"arg": inner}}:
            return _columns(inner)
    return ()


def _ranges(arguments: list[Node], limits: Limits) -> Iterator[str]:
    """Yield the columns with a constant below and a constant above."""
    lower, upper = set[str](), set[str]()
    for argument in arguments:
        inner = argument.get("A_Expr", {})
        if inner.get("kind") != "AEXPR_OP":
            continue
        operator, left, right = tree.texts(inner.get("name"))[-1], inner.get("lexpr"), inner.get("rexpr")
        if limits.holds(right):
            (lower if operator in _LOWER else upper if operator in _UPPER else set()).update(_columns(left))
        elif limits.holds(left):
            (upper if operator in _LOWER else lower if operator in _UPPER else set()).update(_columns(right))
    yield from sorted(lower & upper)
