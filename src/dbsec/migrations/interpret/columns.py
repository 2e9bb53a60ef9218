"""Types, columns, constraints and bounds of partitions: nodes to the records of ``operations``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from dbsec.migrations import tree
from dbsec.migrations.operations import Bound, Column, Constraint, ConstraintKind, Type
from dbsec.migrations.statement import Node

_SPELLINGS = {
    "serial2": "smallserial",
    "serial4": "serial",
    "serial8": "bigserial",
    "int": "int4",
    "decimal": "numeric",
}
SERIALS = {"smallserial": "int2", "serial": "int4", "bigserial": "int8"}
_KINDS = {
    "CONSTR_CHECK": ConstraintKind.CHECK,
    "CONSTR_NOTNULL": ConstraintKind.NOT_NULL,
    "CONSTR_UNIQUE": ConstraintKind.UNIQUE,
    "CONSTR_PRIMARY": ConstraintKind.PRIMARY_KEY,
    "CONSTR_FOREIGN": ConstraintKind.FOREIGN_KEY,
    "CONSTR_EXCLUSION": ConstraintKind.EXCLUDE,
}
_ENFORCEABLE = (ConstraintKind.CHECK, ConstraintKind.FOREIGN_KEY)
_IDENTITY = {"a": "always", "d": "by default"}
_GENERATED = {"s": "stored", "v": "virtual"}
_STRATEGIES = {"r": "range", "l": "list", "h": "hash"}


def type_of(node: Node | None) -> Type:
    """Read a TypeName's inner node; ``Type("")`` where there is none (a column of OF or PARTITION OF)."""
    if node is None:
        return Type("")
    schema, name = tree.type_name(node)
    modifiers = (item["A_Const"].get("ival") for item in node.get("typmods", ()) if "A_Const" in item)
    return Type(
        name if schema else _SPELLINGS.get(name, name),
        schema,
        tuple(int(value.get("ival", 0)) for value in modifiers if value is not None),
        len(node.get("arrayBounds", ())),
    )


def column_of(node: Node) -> Column:
    """Read a ColumnDef's inner node."""
    name, kind = node.get("colname", ""), type_of(node.get("typeName"))
    found: dict[str, Any] = {"not_null": kind.name in SERIALS and kind.schema is None}
    constraints: list[Constraint] = []
    for item in node.get("constraints", ()):
        inner = item["Constraint"]
        match inner["contype"]:
            case "CONSTR_DEFAULT":
                found["default"] = inner.get("raw_expr")
            case "CONSTR_IDENTITY":
                found["identity"], found["not_null"] = _IDENTITY.get(inner.get("generated_when", "a")), True
            case "CONSTR_GENERATED":
                found["generated"] = _GENERATED.get(inner.get("generated_kind", "s"), "stored")
                found["expression"] = inner.get("raw_expr")
            case "CONSTR_NULL":
                found["not_null"] = False
            case "CONSTR_ATTR_DEFERRABLE" if constraints:
                constraints[-1] = replace(constraints[-1], deferrable=True)
            case "CONSTR_ATTR_NOT_ENFORCED" if constraints:
                constraints[-1] = replace(constraints[-1], enforced=False, valid=False)
            case contype if contype in _KINDS:
                found["not_null"] |= contype in ("CONSTR_NOTNULL", "CONSTR_PRIMARY")
                if contype != "CONSTR_NOTNULL" or "conname" in inner or inner.get("is_no_inherit"):
                    constraints.append(replace(constraint_of(inner), columns=(name,)))
    return Column(name, kind, collation=collation_of(node), constraints=tuple(constraints), **found)


def collation_of(node: Node) -> str | None:
    """Read the COLLATE clause of a column or domain; ``pg_catalog`` is left out."""
    clause = node.get("collClause")
    return None if clause is None else str(tree.type_name({"names": clause.get("collname")}).name)


def constraint_of(node: Node) -> Constraint:
    """Read a Constraint's inner node; ``columns`` is empty where it stands beside a column."""
    kind = _KINDS[node["contype"]]
    enforced = kind not in _ENFORCEABLE or bool(node.get("is_enforced"))
    references = tree.name_of(node["pktable"]) if "pktable" in node else None
    found = Constraint(
        kind,
        node.get("conname"),
        tree.texts(node.get("fk_attrs") or node.get("keys")),
        node.get("raw_expr") or node.get("where_clause"),
        references,
        tree.texts(node.get("pk_attrs")),
        valid=enforced and not node.get("skip_validation"),
        enforced=enforced,
        using_index=node.get("indexname"),
        deferrable=bool(node.get("deferrable")),
        include=tree.texts(node.get("including")),
        no_inherit=bool(node.get("is_no_inherit")),
    )
    if kind is not ConstraintKind.EXCLUDE:
        return found
    elements = [item["List"]["items"][0]["IndexElem"] for item in node.get("exclusions", ())]
    columns, expressions = keys_of(elements)
    return replace(found, columns=columns, expressions=expressions, method=node.get("access_method", "gist"))


def keys_of(elements: Iterable[Node]) -> tuple[tuple[str, ...], tuple[Node, ...]]:
    """Split IndexElem nodes into column names ("" for an expression) and expressions."""
    elements = list(elements)
    columns = tuple(element.get("name", "") for element in elements)
    return columns, tuple(element["expr"] for element in elements if "expr" in element)


def bound_of(node: Node | None) -> Bound | None:
    """Read a PartitionBoundSpec."""
    if node is None:
        return None
    if node.get("is_default"):
        return Bound("default")
    return Bound(
        _STRATEGIES.get(node.get("strategy", ""), ""),
        tuple(node.get("lowerdatums", ())),
        tuple(node.get("upperdatums", ())),
        tuple(node.get("listdatums", ())),
        node.get("modulus", 0),
        node.get("remainder", 0),
    )


def partition_key(node: Node | None) -> tuple[str, tuple[str, ...]] | None:
    """Read PARTITION BY: the strategy and the key columns, "" for an expression."""
    if node is None:
        return None
    strategy = node.get("strategy", "").removeprefix("PARTITION_STRATEGY_").lower()
    return strategy, tuple(item["PartitionElem"].get("name", "") for item in node.get("partParams", ()))
