"""Does a table's valid CHECK prove something: what lets ATTACH PARTITION, SET NOT NULL and PRIMARY KEY skip their scan.

Follows PostgreSQL's own prover (predicate_implied_by) clause by clause and never goes beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from operator import eq, ge, gt, le, lt, ne
from typing import Any

from dbsec.migrations import tree
from dbsec.migrations.effects import coercion
from dbsec.migrations.effects.terms import (
    OPAQUE,
    Compared,
    Every,
    Null,
    Some,
    Term,
    Types,
    Value,
    constant,
    term,
)
from dbsec.migrations.operations import Bound, ConstraintKind
from dbsec.migrations.schema.model import Schema, Table
from dbsec.migrations.statement import Node

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {"<": lt, "<=": le, ">": gt, ">=": ge, "=": eq, "<>": ne}
# What ``column CLAUSE c`` says of ``column TARGET v``: true where ``c OPERATOR v``.
_PROVES = {
    (">=", ">="): ">=",
    (">", ">"): ">=",
    (">", ">="): ">=",
    (">=", ">"): ">",
    ("<=", "<="): "<=",
    ("<", "<"): "<=",
    ("<", "<="): "<=",
    ("<=", "<"): "<",
    (">", "<>"): ">=",
    (">=", "<>"): ">",
    ("<", "<>"): "<=",
    ("<=", "<>"): "<",
    ("<>", "<>"): "=",
}


def implied(target: Term, known: Sequence[Term]) -> bool:
    """Tell whether what is known (each of it holds) proves the target."""
    return _implies(Every(tuple(known)), target)


def _implies(clause: Term, target: Term) -> bool:
    match clause, target:
        case _, Every(parts):
            return all(_implies(clause, part) for part in parts)
        case Some(items), Some(parts):  # each item needs one part of its own: PostgreSQL tries no more
            return all(any(_implies(item, part) for part in parts) for item in items)
        case Some(items), _:
            return all(_implies(item, target) for item in items)
        case Every(items), Some(parts):
            return any(_implies(clause, part) for part in parts) or any(_implies(item, target) for item in items)
        case Every(items), _:
            return any(_implies(item, target) for item in items)
        case _, Some(parts):
            return any(_implies(clause, part) for part in parts)
        case Compared(), Compared():
            return _compares(clause, target)
    return isinstance(clause, Null) and clause == target


def _compares(clause: Compared, target: Compared) -> bool:
    if clause.column != target.column or type(clause.value) is not type(target.value):
        return False
    operator = target.operator if clause.operator == "=" else _PROVES.get((clause.operator, target.operator))
    if operator is None:
        return False
    if isinstance(clause.value, bool):
        return clause == target
    if isinstance(clause.value, str) and operator not in ("=", "<>"):
        return clause.value == target.value and "=" in operator  # the collation's order is not known
    try:
        return _COMPARE[operator](clause.value, target.value)
    except TypeError:  # a time with a zone against one without
        return False


def types_of(table: Table, schema: Schema, zone: str | None) -> Types:
    """Give each column the type that its domain comes down to."""
    types = Types((name, coercion.base(column.type, schema)[0]) for name, column in table.columns.items())
    types.zone = zone
    return types


def known_of(table: Table, schema: Schema, zone: str | None = None) -> list[Term]:
    """Collect what is certain of a table's rows: valid CHECK constraints and NOT NULL."""
    types = types_of(table, schema, zone)
    checks = [term(check.expression, types) for check in table.of_kind(ConstraintKind.CHECK) if check.valid]
    return checks + [Null(name, False) for name, column in table.columns.items() if column.not_null]


def proven_not_null(table: Table, column: str, schema: Schema) -> bool:
    """Tell whether PostgreSQL sees without a scan that a column holds no NULL."""
    return implied(Null(column, False), known_of(table, schema))


def bound_term(bound: Bound, keys: Iterable[str], types: Types) -> Term:
    """Write a partition's bound as the condition on its rows; OPAQUE for hash and for keys that are expressions."""
    columns = tuple(keys)
    if any(column not in types for column in columns):
        return OPAQUE
    if bound.strategy == "list" and len(columns) == 1:
        return _list(bound, columns[0], types)
    if bound.strategy == "range":
        lower, upper = (_datums(datums, columns, types) for datums in (bound.lower, bound.upper))
        if lower is not None and upper is not None:
            return _range(columns, lower, upper)
    return OPAQUE


def _list(bound: Bound, column: str, types: Types) -> Term:
    values = [constant(node, column, types) for node in bound.values if not tree.is_null(node)]
    if any(value is None for value in values) or (types[column].name == "bool" and len(values) > 1):
        return OPAQUE
    inside = Some(tuple(Compared(column, "=", value) for value in values if value is not None), listed=True)
    if any(tree.is_null(node) for node in bound.values):
        return Some((Null(column, True), inside))
    return Every((Null(column, False), inside))


class _Edge(Enum):
    MINVALUE = "minvalue"
    MAXVALUE = "maxvalue"


_Datum = Value | _Edge


def _datums(nodes: Sequence[Node], columns: tuple[str, ...], types: Types) -> list[_Datum] | None:
    """Read the values of one end; None where one of them cannot be read."""
    found: list[_Datum] = []
    for node, column in zip(nodes, columns, strict=False):
        words = tree.texts(node["ColumnRef"].get("fields")) if "ColumnRef" in node else ()
        value: _Datum | None = _Edge(words[0]) if words in (("minvalue",), ("maxvalue",)) else None
        if value is None:
            value = constant(node, column, types)
        if value is None or len(nodes) != len(columns):
            return None
        found.append(value)
    return found


def _range(columns: tuple[str, ...], lower: list[_Datum], upper: list[_Datum]) -> Term:
    parts: list[Term] = [Null(column, False) for column in columns]
    same = 0
    for column, low, high in zip(columns, lower, upper, strict=True):
        if isinstance(low, _Edge) or low != high:
            break
        parts.append(Compared(column, "=", low))
        same += 1
    parts.append(_end(columns[same:], lower[same:], ">"))
    parts.append(_end(columns[same:], upper[same:], "<"))
    return Every(tuple(parts))


def _end(columns: tuple[str, ...], values: list[_Datum], beyond: str) -> Term:
    """One end of a range: ``a > 1 OR (a = 1 AND b >= 2)``; the lower end belongs to it, the upper does not."""
    open_end = _Edge.MINVALUE if beyond == ">" else _Edge.MAXVALUE  # behind it nothing more is asked
    arms: list[Term] = []
    before: list[Term] = []
    for column, value, following in zip(columns, values, (*values, None)[1:], strict=True):
        if isinstance(value, _Edge):
            break
        last = following is None or isinstance(following, _Edge)
        inclusive = following is open_end or (following is None and beyond == ">")
        own = Compared(column, beyond + "=" * (last and inclusive), value)
        arms.append(Every((*before, own)) if before else own)
        before.append(Compared(column, "=", value))
        if last:
            break
    return (arms[0] if len(arms) == 1 else Some(tuple(arms))) if arms else Every(())
