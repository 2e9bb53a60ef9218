"""What an INSERT or UPDATE says of a column, wherever it says it: in its parameter sets, or in the statement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, TypeAlias

from sqlalchemy import BindParameter, ClauseElement, Insert, Null, Table, Update
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, BooleanClauseList

from dbsec.crypto.orm.errors import UnboundParameter

Statement: TypeAlias = Insert | Update
Params: TypeAlias = Mapping[str, Any]


class Expression:
    """Stands for a value that only the server will know."""


EXPRESSION = Expression()


def lacks(values: Iterable[Any]) -> bool:
    """Tell whether one of the values is missing, or known to the server only."""
    return not {NoneType, Expression}.isdisjoint(map(type, values))


class Told:
    """The values of one statement, a list for each column: one a row. Nothing of the caller's is changed.

    ``key`` is always the key of a column in the table.
    """

    def __init__(self, clause: Statement, table: Table, rows: Sequence[Params]) -> None:
        self.clause = clause
        self.table = table
        self._multi = _multi_values(clause, table)
        self._params = rows
        self._given = bool(rows) and not self._multi
        self.rows: list[dict[str, Any]] = [dict(row) for row in (self._multi or rows or [{}])]
        self._first = self.rows[0]
        self._embedded = {} if self._multi else _embedded(clause)
        self._changed: dict[str, Any] = {}

    def has(self, key: str) -> bool:
        """Tell whether the statement gives the column a value."""
        return key in self._first or key in self._changed or key in self._embedded

    def values(self, key: str) -> list[Any]:
        """Return the column's values, ``EXPRESSION`` where it is the server that computes one."""
        if key in self._first:
            return _all_resolved([row.get(key) for row in self.rows], self.rows)
        if key in self._changed:
            return [self._changed[key]]
        _, value = self._embedded[key]
        return [_resolved(value, row) for row in self.rows]

    def put(self, key: str, values: Sequence[Any]) -> None:
        """Give the column these values in place of what was said. Errors: ``Unbound`` if one stands for many rows."""
        name = key
        if key not in self._first and key in self._embedded:
            said = self._embedded[key][1]
            if not (isinstance(said, BindParameter) and said.key in self._first):
                self._put_embedded(key, values)
                return
            name = said.key
        elif key not in self._first and not self._given and not self._multi:
            self._put_embedded(key, values)
            return
        for row, value in zip(self.rows, values, strict=True):
            row[name] = value

    def _put_embedded(self, key: str, values: Sequence[Any]) -> None:
        if len(values) != 1:
            raise UnboundParameter(
                f"one value of '{self.table.fullname}.{key}' was given for {len(values)} rows",
                hint="put it into each parameter set",
            )
        self._changed[key] = values[0]

    def pinned(self) -> dict[str, list[Any]]:
        """Return the columns that WHERE fixes by ``=``, with the values for each row."""
        found = {}
        for column, value in _conjuncts(getattr(self.clause, "whereclause", None)):
            if self.table.c.get(column.key) is not None and self.table.c.contains_column(column):
                found[column.key] = [_resolved(value, row) for row in self.rows]
        return found

    def result(self) -> tuple[Statement, Sequence[Params]]:
        """Return the statement and the parameter sets to execute."""
        clause: Any = self.clause
        if self._multi:
            clause = clause._generate()
            clause._multi_values = ([{self.table.c[key]: value for key, value in row.items()} for row in self.rows],)
            return clause, self._params
        if self._changed:
            names = {key: name for key, (name, _) in self._embedded.items()}
            clause = clause.values({names.get(key, self.table.c[key]): value for key, value in self._changed.items()})
        return clause, self.rows if self._given else []


def _embedded(clause: Statement) -> dict[str, tuple[Any, Any]]:
    """Return what ``values()`` was told: by the column's key, how the statement names it, and the value."""
    return {_key(clause, name): (name, value) for name, value in (clause._values or {}).items()}


def _multi_values(clause: Statement, table: Table) -> list[dict[str, Any]]:
    """Return the rows of ``values([...])``."""
    rows = [row for group in getattr(clause, "_multi_values", ()) for row in group]
    keys = [column.key for column in table.c]
    return [
        {_key(clause, name): value for name, value in row.items()}
        if isinstance(row, Mapping)
        else dict(zip(keys, row, strict=False))
        for row in rows
    ]


def _key(clause: Statement, name: Any) -> str:
    """Return the key of the column that a statement names: itself, by its key, or by an attribute of a class."""
    if not isinstance(name, str):
        return str(name.key)
    mapper = clause._propagate_attrs.get("plugin_subject")
    if mapper is not None and name in mapper.columns:
        return str(mapper.columns[name].key)
    return name


def _all_resolved(values: list[Any], rows: Sequence[Params]) -> list[Any]:
    if any(issubclass(kind, ClauseElement) or hasattr(kind, "__clause_element__") for kind in set(map(type, values))):
        return [_resolved(value, row) for value, row in zip(values, rows, strict=True)]
    return values


def _resolved(value: Any, row: Params) -> Any:
    if isinstance(value, BindParameter):
        return row.get(value.key, value.effective_value)
    if isinstance(value, Null):
        return None
    return EXPRESSION if isinstance(value, ClauseElement) or hasattr(value, "__clause_element__") else value


def _conjuncts(where: Any) -> Iterator[tuple[Any, Any]]:
    """Walk through what all must hold: pairs of a column and the parameter that it equals."""
    for left, right in _equalities(where):
        if isinstance(left, BindParameter):
            left, right = right, left
        if isinstance(right, BindParameter) and hasattr(left, "table"):
            yield left, right


def equal_columns(where: Any) -> set[str]:
    """Return the keys of the columns that must equal the one of the same key in another table of the statement."""
    pairs = [(left, right) for left, right in _equalities(where) if hasattr(left, "table") and hasattr(right, "table")]
    return {str(left.key) for left, right in pairs if left.key == right.key and left.table is not right.table}


def _equalities(where: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(where, BooleanClauseList) and where.operator is operators.and_:
        for clause in where.clauses:
            yield from _equalities(clause)
    elif isinstance(where, BinaryExpression) and where.operator is operators.eq:
        yield where.left, where.right
