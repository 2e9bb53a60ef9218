"""Does a table's valid CHECK prove something: what lets ATTACH PARTITION, SET NOT NULL and PRIMARY KEY skip their scan.

Follows PostgreSQL's own prover (predicate_implied_by) clause by clause and never goes beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import eq, ge, gt, le, lt, ne

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
    negation,
    term,
)
from dbsec.migrations.operations import Bound, ConstraintKind
from dbsec.migrations.schema.model import Schema, Table
from dbsec.migrations.statement import Node

_COMPARE: dict[str, Callable[[Value, Value], bool]] = {"<": lt, "<=": le, ">": gt, ">=": ge, "=": eq, "<>": ne}
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
    if isinstance(target, Every):
        return all(_implies(clause, part) for part in target.of)
    if isinstance(clause, Some):
        return bool(clause.of) and all(_implies(part, target) for part in clause.of)
    if isinstance(target, Some) and any(_implies(clause, part) for part in target.of):
        return True
    if isinstance(clause, Every):
        return any(_implies(part, target) for part in clause.of)
    if isinstance(clause, Null) and isinstance(target, Null):
        return clause == target
    return isinstance(clause, Compared) and isinstance(target, Compared) and _compares(clause, target)


def _compares(clause: Compared, target: Compared) -> bool:
    if clause.column != target.column or type(clause.value) is not type(target.value):
        return False
    operator = target.operator if clause.operator == "=" else _PROVES.get((clause.operator, target.operator))
    if operator is None:
        return False
    if isinstance(clause.value, str) and operator not in ("=", "<>"):
        return clause.value == target.value and "=" in operator  # the collation's order is not known
    try:
        return _COMPARE[operator](clause.value, target.value)
    except TypeError:  # a time with a zone against one without
        return False


def types_of(table: Table, schema: Schema) -> Types:
    """Give each column the type that its domain comes down to."""
    return {name: coercion.base(column.type, schema)[0] for name, column in table.columns.items()}


def known_of(table: Table, schema: Schema) -> list[Term]:
    """Collect what is certain of a table's rows: valid CHECK constraints and NOT NULL."""
    types = types_of(table, schema)
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
    values = [constant(node, types[column]) for node in bound.values if not tree.is_null(node)]
    if any(value is None for value in values):
        return OPAQUE
    inside = Some(tuple(Compared(column, "=", value) for value in values if value is not None))
    if any(tree.is_null(node) for node in bound.values):
        return Some((Null(column, True), *inside.of))
    return Every((Null(column, False), inside))


def _datums(nodes: Sequence[Node], columns: tuple[str, ...], types: Types) -> list[Value | bool] | None:
    """Read the values of one end; False is MINVALUE and True is MAXVALUE; None where one cannot be read."""
    found: list[Value | bool] = []
    for node, column in zip(nodes, columns, strict=False):
        words = tree.texts(node["ColumnRef"].get("fields")) if "ColumnRef" in node else ()
        value = words == ("maxvalue",) if words else constant(node, types[column])
        if value is None or len(nodes) != len(columns):
            return None
        found.append(value)
    return found


def _range(columns: tuple[str, ...], lower: list[Value | bool], upper: list[Value | bool]) -> Term:
    parts: list[Term] = [Null(column, False) for column in columns]
    same = 0
    for column, low, high in zip(columns, lower, upper, strict=True):
        if isinstance(low, bool) or low != high:
            break
        parts.append(Compared(column, "=", low))
        same += 1
    parts.append(_end(columns[same:], lower[same:], ">"))
    parts.append(_end(columns[same:], upper[same:], "<"))
    return Every(tuple(parts))


def _end(columns: tuple[str, ...], values: list[Value | bool], beyond: str) -> Term:
    """One end of a range: ``a > 1 OR (a = 1 AND b >= 2)``; the lower end belongs to it, the upper does not."""
    open_end = beyond == "<"  # MAXVALUE ends the upper bound, MINVALUE the lower one: nothing more is asked
    arms: list[Term] = []
    before: list[Term] = []
    for at, (column, value) in enumerate(zip(columns, values, strict=True)):
        if isinstance(value, bool):
            break
        following = values[at + 1] if at + 1 < len(values) else None
        last = following is None or isinstance(following, bool)
        inclusive = following is open_end if isinstance(following, bool) else (following is None and not open_end)
        arms.append(Every((*before, Compared(column, beyond + "=" * (last and inclusive), value))))
        before.append(Compared(column, "=", value))
        if last:
            break
    return Some(tuple(arms)) if arms else Every(())


def outside(bound: Bound, keys: Iterable[str], types: Types) -> Term:
    """Write what the DEFAULT partition's rows must be once another partition with this bound stands beside it."""
    return negation(bound_term(bound, keys, types))
