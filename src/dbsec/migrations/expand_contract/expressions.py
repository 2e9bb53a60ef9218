"""Expressions as text: which columns they read, and the same expression over other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbsec.errors import UsageError
from dbsec.migrations.rules._words import ident

_BEFORE = "SELECT "


def columns_of(expression: str) -> tuple[str, ...]:
    """Return the columns that an expression reads, each once. Errors: ``UsageError`` for what is no expression."""
    return tuple(dict.fromkeys(name for name, _ in _references(expression)))


def over(expression: str, names: Mapping[str, str]) -> str:
    """Write the expression with the text of ``names`` in the place of each column; other columns stay."""
    text = _BEFORE + expression
    for name, (start, end) in sorted(_references(expression), key=lambda found: -found[1][0]):
        if name in names:
            text = text[:start] + names[name] + text[end:]
    return text.removeprefix(_BEFORE)


def of_row(expression: str, row: str) -> str:
    """Write the expression over a record of PL/pgSQL: ``NEW.phone`` for ``phone``."""
    return over(expression, {name: f"{row}.{ident(name)}" for name in columns_of(expression)})


def functions_of(expression: str) -> tuple[tuple[str, ...], ...]:
    """Return the names of the functions that an expression calls, in their parts."""
    from pglast import ast

    found: list[tuple[str, ...]] = []
    _walk(_parsed(expression), lambda node: found.append(_parts(node.funcname)), ast.FuncCall)
    return tuple(dict.fromkeys(found))


def wrapped(expression: str) -> str:
    """Put parentheses around what is more than one name, one call or one constant."""
    from pglast import ast

    node = _parsed(expression)
    alone = isinstance(node, (ast.ColumnRef, ast.FuncCall, ast.A_Const, ast.CoalesceExpr, ast.SQLValueFunction))
    return expression if alone else f"({expression})"


def _references(expression: str) -> list[tuple[str, tuple[int, int]]]:
    """List each reference to a column, with the place of its text behind SELECT."""
    from pglast import ast
    from pglast.parser import scan

    ends = {token.start: token.end + 1 for token in scan(_BEFORE + expression)}
    found: list[tuple[str, tuple[int, int]]] = []

    def note(node: Any) -> None:
        parts = _parts(node.fields)
        if len(parts) != 1 or parts[0] == "*":
            raise UsageError(
                f"'{expression}': '{'.'.join(parts)}' is no column alone",
                hint="write columns without their table; a trigger has one row and no query",
            )
        found.append((parts[0], (node.location, ends[node.location])))

    _walk(_parsed(expression), note, ast.ColumnRef)
    return found


def _parsed(expression: str) -> Any:
    from pglast import parse_sql
    from pglast.parser import ParseError, scan

    try:
        statements: Any = parse_sql(_BEFORE + expression)
        comments = [token for token in scan(_BEFORE + expression) if token.name in ("SQL_COMMENT", "C_COMMENT")]
    except ParseError as exc:
        raise UsageError(f"'{expression}' is no expression of SQL: {exc.args[0]}") from exc
    select = statements[0].stmt
    targets: Any = getattr(select, "targetList", None) or ()
    if comments or len(statements) != 1 or len(targets) != 1 or targets[0].name or select.fromClause:
        raise UsageError(f"'{expression}' is not one expression of SQL alone")
    return targets[0].val


def _parts(fields: Any) -> tuple[str, ...]:
    return tuple(getattr(field, "sval", "*") for field in fields)


def _walk(node: Any, note: Any, kind: type) -> None:
    """Call ``note`` for each node of a kind below (and with) ``node``; a subquery is refused."""
    from pglast import ast

    if isinstance(node, ast.SubLink):
        raise UsageError("an expression of a column holds no subquery", hint="write a function, and name its schema")
    if isinstance(node, kind):
        note(node)
    if isinstance(node, (list, tuple)):
        for item in node:
            _walk(item, note, kind)
    elif isinstance(node, ast.Node):
        for name in node:
            _walk(getattr(node, name), note, kind)
