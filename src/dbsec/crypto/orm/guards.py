"""What a statement may do with an encrypted column, judged when it is compiled: what is not allowed raises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    BindParameter,
    ClauseElement,
    ColumnElement,
    CompoundSelect,
    Dialect,
    FromClause,
    LargeBinary,
    Select,
    TableClause,
    TypeCoerce,
)
from sqlalchemy.dialects.postgresql.dml import OnConflictClause
from sqlalchemy.sql import operators
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import BinaryExpression, ClauseList, Grouping, Label, UnaryExpression
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import GenerativeSelect, SelectBase

from dbsec.crypto.columns import Mode
from dbsec.crypto.orm.comparators import NAMES, Stored, refusal
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
        # a parameter is no ciphertext: it passes only if we have encrypted it
        if _is_encrypted(child) and not isinstance(child, (*_TRANSPARENT, BindParameter)):
            _judge_use(child, serves)
        if not isinstance(child, TableClause):
            _walk(child, serves)


def _judge_use(column: Any, user: Any) -> None:
    if isinstance(user, FunctionElement):
        allowed = user.name == "count"
    elif isinstance(user, TypeCoerce):
        allowed = isinstance(user.type, Stored | LargeBinary)
    elif isinstance(user, BinaryExpression):
        allowed = user.operator in (operators.is_, operators.is_not) or _same_key(user)
    else:
        # what raises on reading (text) is not judged here; what an upsert sets was judged before it was written
        allowed = isinstance(user, SelectBase | UpdateBase | FromClause | OnConflictClause)
    if allowed:
        return
    raise refusal(_name(column), _shown(user))


def _same_key(equality: BinaryExpression[Any]) -> bool:
    """Equal values of one deterministic column are equal in two rows too."""
    left, right = equality.left.type, equality.right.type
    if equality.operator is not operators.eq or not (isinstance(left, Encrypted) and isinstance(right, Encrypted)):
        return False
    same = (left.field, left.generation, left.mode) == (right.field, right.generation, right.mode)
    return same and left.mode is Mode.DETERMINISTIC


def _judge_order(select: Any, clauses: Any, what: str) -> None:
    for clause in clauses:
        for part in _parts(clause):
            named = _named(select, part) if part.__visit_name__ in _STRINGS else part
            if _is_encrypted(named):
                raise refusal(_name(named), what)


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


def _named(select: Any, reference: Any) -> Any:
    """Return the column of the query that a string in ORDER BY names."""
    return select.selected_columns.get(reference.element) if isinstance(reference.element, str) else None


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
        operator = user.operator or user.modifier
        return NAMES.get(operator) or str(getattr(operator, "__name__", "an operator"))
    shown = type(user).__name__
    return "DISTINCT ON" if shown == "DistinctOnClause" else shown.upper()
