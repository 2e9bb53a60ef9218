"""What PostgreSQL's prover reads in a CHECK: AND, OR, NULL tests, and columns against constants."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time
from decimal import Decimal, InvalidOperation

from msgspec import Struct

from dbsec.migrations import tree
from dbsec.migrations.operations import Type
from dbsec.migrations.statement import Node

Value = Decimal | datetime | str | bool


class Types(dict[str, Type]):
    """Columns with the types that domains come down to; ``zone``: what a timestamptz without an offset is read in.

    "UTC", "" for one that is not known but the same for all, or None where the release has several.
    """

    zone: str | None = None


_NEGATED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "=": "<>", "<>": "="}
_SWAPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "<>": "<>"}
_NUMBERS = frozenset({"int2", "int4", "int8", "numeric", "float4", "float8", "oid"})
_MOMENTS = frozenset({"date", "timestamp", "timestamptz"})
_STRINGS = frozenset({"text", "varchar", "bpchar"})


class Compared(Struct, frozen=True):
    """A column against a constant; text is only ever equal or not: its order is the collation's business."""

    column: str
    operator: str
    value: Value


class Null(Struct, frozen=True):
    """``column IS NULL``, or IS NOT NULL."""

    column: str
    null: bool


class Every(Struct, frozen=True):
    """AND; ``listed``: NOT IN."""

    of: tuple[Term, ...]
    listed: bool = False


class Some(Struct, frozen=True):
    """OR; ``listed``: IN."""

    of: tuple[Term, ...]
    listed: bool = False


class Opaque(Struct, frozen=True):
    """What is not read; it proves nothing and is never proven."""


Term = Compared | Null | Every | Some | Opaque
OPAQUE = Opaque()


def _joined(kind: type[Every | Some], parts: list[Term]) -> Term:
    """Join with AND or OR, which take in parts that are joined the same way; the lists of IN stay apart."""
    flat: list[Term] = []
    for part in parts:
        flat += part.of if isinstance(part, kind) and not part.listed else (part,)
    return kind(tuple(flat))


def negation(of: Term) -> Term:
    """Push NOT down, as PostgreSQL does before it reasons."""
    match of:
        case Compared(column, operator, bool(value)):
            return Compared(column, operator, not value)  # as PostgreSQL has it: flag = true is flag
        case Compared(column, operator, value):
            return Compared(column, _NEGATED[operator], value)
        case Null(column, null):
            return Null(column, not null)
        case Every(parts, listed):
            return Some(tuple(map(negation, parts)), listed)
        case Some(parts, listed):
            return Every(tuple(map(negation, parts)), listed)
    return OPAQUE


def term(node: Node | None, types: Types) -> Term:
    """Read an expression."""
    match node:
        case {"BoolExpr": {"boolop": "NOT_EXPR", "args": [inner]}}:
            return negation(term(inner, types))
        case {"BoolExpr": {"boolop": boolop, "args": arguments}}:
            return _joined(Every if boolop == "AND_EXPR" else Some, [term(one, types) for one in arguments])
        case {"NullTest": {"arg": inner, "nulltesttype": kind}}:
            name = _column(inner, types)
            return Null(name, kind == "IS_NULL") if name else OPAQUE
        case {"A_Expr": {"kind": kind, "lexpr": left, "rexpr": right, "name": names}} if kind in _READERS:
            return _READERS[kind](left, tree.texts(names)[-1], right, types)
    return OPAQUE


def _operator(left: Node, operator: str, right: Node, types: Types) -> Term:
    if operator not in _NEGATED:
        return OPAQUE
    if operator in ("=", "<>") and (truth := _truth(right)) is not None:
        inner = term(left, types)
        return inner if truth == (operator == "=") else negation(inner)
    if name := _column(left, types):
        return _compared(name, operator, constant(right, name, types))
    if name := _column(right, types):
        return _compared(name, _SWAPPED[operator], constant(left, name, types))
    return OPAQUE


def _compared(column: str, operator: str, value: Value | None) -> Term:
    if isinstance(value, bool):
        return Compared(column, "=", value == (operator == "=")) if operator in ("=", "<>") else OPAQUE
    return OPAQUE if value is None else Compared(column, operator, value)


def _truth(node: Node) -> bool | None:
    match node:
        case {"A_Const": {"boolval": value}}:
            return bool(value.get("boolval"))
    return None


def _between(left: Node, _: str, right: Node, types: Types) -> Term:
    low, high = right["List"]["items"]
    return Every((_operator(left, ">=", low, types), _operator(left, "<=", high, types)))


def _not_between(left: Node, name: str, right: Node, types: Types) -> Term:
    return negation(_between(left, name, right, types))


def _list(left: Node, operator: str, right: Node, types: Types) -> Term:
    """IN and = ANY are OR; NOT IN and <> ALL are AND."""
    items, name = _items(right), _column(left, types)
    if items is None or operator not in ("=", "<>") or (name and types[name].name == "bool"):
        return OPAQUE
    return (Some if operator == "=" else Every)(tuple(_operator(left, operator, item, types) for item in items), True)


def _any(left: Node, operator: str, right: Node, types: Types) -> Term:
    return _list(left, operator, right, types) if operator == "=" else OPAQUE


def _all(left: Node, operator: str, right: Node, types: Types) -> Term:
    return _list(left, operator, right, types) if operator == "<>" else OPAQUE


def _items(node: Node) -> list[Node] | None:
    match node:
        case {"List": {"items": items}} | {"A_ArrayExpr": {"elements": items}}:
            return list(items)
        case {"TypeCast": {"arg": inner}}:
            return _items(inner)
    return None


def _distinct(left: Node, _: str, right: Node, types: Types) -> Term:
    """IS DISTINCT FROM NULL is IS NOT NULL."""
    name = _column(left, types)
    return Null(name, False) if name and tree.is_null(right) else OPAQUE


def _not_distinct(left: Node, name: str, right: Node, types: Types) -> Term:
    return negation(_distinct(left, name, right, types))


_READERS: dict[str, Callable[[Node, str, Node, Types], Term]] = {
    "AEXPR_OP": _operator,
    "AEXPR_BETWEEN": _between,
    "AEXPR_NOT_BETWEEN": _not_between,
    "AEXPR_IN": _list,
    "AEXPR_OP_ANY": _any,
    "AEXPR_OP_ALL": _all,
    "AEXPR_DISTINCT": _distinct,
    "AEXPR_NOT_DISTINCT": _not_distinct,
}


def _column(node: Node, types: Types) -> str:
    """Name the column that a node is; a string shown as another string type is still that column."""
    match node:
        case {"ColumnRef": {"fields": fields}}:
            name = tree.texts(fields)[-1]
            return name if name in types else ""
        case {"TypeCast": {"arg": inner, "typeName": wanted}}:
            name = _column(inner, types)
            strings = name and types[name].name in _STRINGS and tree.type_name(wanted).name in _STRINGS - {"bpchar"}
            return name if strings and not types[name].array else ""
    return ""


def constant(node: Node, column: str, types: Types) -> Value | None:
    """Read a constant as a value of a column's type; None where it is none, or cannot be compared for sure."""
    text, of = tree.constant(node), types[column]
    if text is None or of.array:
        return None
    if of.name in _NUMBERS:
        return _number(text)
    if of.name in _MOMENTS:
        shown = tree.type_name(node["TypeCast"]["typeName"]).name if "TypeCast" in node else ""
        if of.name == "timestamptz":
            return _zoned(text, types.zone) if shown in ("", of.name) else None
        return None if shown == "timestamptz" else _moment(text)
    if of.name == "bool":
        return text.lower() in ("t", "true", "yes", "on", "1")
    if of.name == "bpchar":
        return text.rstrip(" ")
    return None if of.name == "citext" else text.lower() if of.name == "uuid" else text


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _moment(text: str) -> Value:
    """Read a date or time without a zone."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        return text


def _zoned(text: str, zone: str | None) -> Value | None:
    """Read a timestamptz; in a zone that is not known days are ordered, and hours only equal: clocks are changed."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is not None:
        return moment
    if zone != "":
        return moment.replace(tzinfo=UTC) if zone else None
    return moment if moment.time() == time.min else moment.isoformat()
