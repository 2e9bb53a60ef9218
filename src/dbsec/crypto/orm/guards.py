"""What a statement may do with an encrypted column, judged when it is compiled: what is not allowed raises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    CompoundSelect,
    Dialect,
    FromClause,
    LargeBinary,
    Select,
    TypeCoerce,
)
from sqlalchemy.sql import operators
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import BinaryExpression, ClauseList, Grouping, Label, UnaryExpression
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import GenerativeSelect

from dbsec.crypto.orm.comparators import Stored, refusal
from dbsec.crypto.orm.types import BlindIndexed, Encrypted

_TRANSPARENT = (Grouping, ClauseList, Label)
_STRINGS = ("textual_label_reference", "label_reference")


def guarded(compiler: type[SQLCompiler]) -> type[SQLCompiler]:
    """Return the compiler of a dialect that judges what it compiles. Errors of compiling: ``Unsearchable``."""

    class Guarded(compiler):  # type: ignore[valid-type,misc]
        def __init__(self, dialect: Dialect, statement: Any, *args: Any, **options: Any) -> None:
            if isinstance(statement, ClauseElement):
                judge(statement)
            super().__init__(dialect, statement, *args, **options)

        # the ORM adds orders of its own (of a relationship), which the statement does not show
        def order_by_clause(self, select: Any, **options: Any) -> str:
            _judge_order(select, select._order_by_clauses, "ORDER BY")
            return str(super().order_by_clause(select, **options))

        def group_by_clause(self, select: Any, **options: Any) -> str:
            _judge_order(select, select._group_by_clauses, "GROUP BY")
            return str(super().group_by_clause(select, **options))

    return Guarded


def judge(statement: ClauseElement) -> None:
    """Raise for each use of an encrypted column but these: selected or written itself, counted, compared by us."""
    _walk(statement, statement)


def _walk(element: ClauseElement, user: ClauseElement) -> None:
    """``user`` is what an element serves: its parent, past parentheses, lists and labels."""
    if isinstance(element, GenerativeSelect):
        _judge_order(element, element._order_by_clauses, "ORDER BY")
        _judge_order(element, element._group_by_clauses, "GROUP BY")
        _judge_distinct(element)
    serves = user if isinstance(element, _TRANSPARENT) else element
    for child in element.get_children():
        if _is_encrypted(child) and not isinstance(child, _TRANSPARENT):
            _judge_use(child, serves)
        if not isinstance(child, FromClause) or isinstance(child, GenerativeSelect) or hasattr(child, "element"):
            _walk(child, serves)


def _judge_use(column: Any, user: Any) -> None:
    if isinstance(user, GenerativeSelect | UpdateBase | FromClause):
        return
    if isinstance(user, TypeCoerce) and isinstance(user.type, Stored | LargeBinary):
        return
    if isinstance(user, FunctionElement) and user.name == "count":
        return
    if isinstance(user, BinaryExpression) and user.operator in (operators.is_, operators.is_not):
        return
    raise refusal(_name(column), _shown(user))


def _judge_order(select: Any, clauses: Any, what: str) -> None:
    for clause in clauses:
        for part in _parts(clause):
            if _is_encrypted(part) or (part.__visit_name__ in _STRINGS and _names_encrypted(select, part)):
                raise refusal(_name(part), what)


def _judge_distinct(select: Any) -> None:
    """Distinct rows are distinct by their ids where these are selected too; else every value is another one."""
    if isinstance(select, CompoundSelect):
        if not select.keyword.value.endswith("ALL"):
            for one in select.selects:
                _judge_rows(one, select.keyword.value)
    elif select._distinct:
        _judge_order(select, select._distinct_on, "DISTINCT ON")
        if not select._distinct_on:
            _judge_rows(select, "DISTINCT")


def _judge_rows(select: Any, what: str) -> None:
    columns = list(select.selected_columns) if isinstance(select, Select) else []
    for column in columns:
        table = getattr(column, "table", None)
        if _is_encrypted(column) and table is not None:
            ids = [key.key for key in getattr(table, "primary_key", ())]
            beside = {other.key for other in columns if getattr(other, "table", None) is table}
            if not ids or not beside.issuperset(ids):
                raise refusal(_name(column), what)


def _parts(clause: ClauseElement) -> Iterator[Any]:
    """Yield an element and what it is made of, but nothing of a query inside it."""
    yield clause
    if not isinstance(clause, TypeCoerce | FunctionElement | GenerativeSelect):
        for child in clause.get_children():
            yield from _parts(child)


def _names_encrypted(select: Any, reference: Any) -> bool:
    """A string in ORDER BY names a column of the query."""
    name = reference.element
    return isinstance(name, str) and any(
        _is_encrypted(column) and getattr(column, "key", None) == name for column in select.selected_columns
    )


def _is_encrypted(element: Any) -> bool:
    return isinstance(element, ColumnElement) and isinstance(element.type, Encrypted | BlindIndexed)


def _name(element: Any) -> str:
    kind = getattr(element, "type", None)
    if isinstance(kind, Encrypted):
        return str(kind.field)
    return f"{kind.of} (its index)" if isinstance(kind, BlindIndexed) else str(getattr(element, "element", element))


def _shown(user: Any) -> str:
    if isinstance(user, FunctionElement):
        return f"{getattr(user, 'name', 'a function')}()"
    if isinstance(user, BinaryExpression | UnaryExpression):
        return getattr(user.operator or user.modifier, "__name__", "an operator")
    return type(user).__name__.upper()
