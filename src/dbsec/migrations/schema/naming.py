"""The names that PostgreSQL gives to what a statement leaves unnamed: ``users_phone_key``, ``users_lower_idx``.

Source: makeObjectName, ChooseRelationName and ChooseIndexColumnNames (indexcmds.c), FigureColname (parse_target.c).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dbsec.migrations import tree
from dbsec.migrations.statement import Node

_BYTES = 63  # NAMEDATALEN - 1
_BY_KIND = {
    "CoalesceExpr": "coalesce",
    "A_ArrayExpr": "array",
    "RowExpr": "row",
    "GroupingFunc": "grouping",
    "JsonObjectConstructor": "json_object",
    "JsonArrayConstructor": "json_array",
    "JsonScalarExpr": "json_scalar",
    "JsonSerializeExpr": "json_serialize",
}
_SUBLINKS = {"EXISTS_SUBLINK": "exists", "ARRAY_SUBLINK": "array"}
_WEAK, _STRONG = 1, 2


def clipped(text: str, size: int = _BYTES) -> str:
    """Cut a name to ``size`` bytes of UTF-8, never inside a character."""
    return text if len(text) * 4 <= size else text.encode()[:size].decode(errors="ignore")


def joined(first: str, second: str | None, label: str) -> str:
    """Join ``table_column_label``; the longer of the first two is cut until all fits."""
    one, two = len(first.encode()), len((second or "").encode())
    room = _BYTES - len(label.encode()) - 1 - (1 if second else 0)
    while one + two > room:
        if one > two:
            one -= 1
        else:
            two -= 1
    parts = [clipped(first, one), *([clipped(second, two)] if second else []), label]
    return "_".join(parts)


def free(taken: Callable[[str], bool], first: str, second: str | None, label: str) -> str:
    """Choose the first name of ``label``, ``label1``, ``label2`` … that is not taken."""
    name, number = joined(first, second, label), 0
    while taken(name):
        number += 1
        name = joined(first, second, f"{label}{number}")
    return name


def addition(columns: Iterable[str]) -> str:
    """Join column names for the middle of a name, until it is long enough."""
    whole = ""
    for column in columns:
        whole = f"{whole}_{column}" if whole else column
        if len(whole.encode()) > _BYTES:
            break
    return whole


def index_columns(columns: Sequence[str], expressions: Iterable[Node]) -> list[str]:
    """Name the columns of an index: an expression after its function, doubles numbered."""
    found: list[str] = []
    rest = iter(expressions)
    for column in columns:
        wanted = column or figured(next(rest, {})) or "expr"
        name, number = wanted, 0
        while name in found:
            number += 1
            name = clipped(wanted, _BYTES - len(str(number))) + str(number)
        found.append(name)
    return found


def figured(node: Node) -> str | None:
    """Name an expression as a SELECT list would; None where PostgreSQL says ``?column?`` or ``expr``."""
    return _figured(node)[0]


def _figured(node: Node) -> tuple[str | None, int]:
    for kind, inner in node.items():
        match kind:
            case "ColumnRef" | "A_Indirection":
                return _last_field(kind, inner)
            case "FuncCall":
                return tree.texts(inner.get("funcname"))[-1], _STRONG
            case "SQLValueFunction":
                return inner.get("op", "").removeprefix("SVFOP_").removesuffix("_N").lower(), _STRONG
            case "MinMaxExpr":
                return ("greatest" if inner.get("op") == "IS_GREATEST" else "least"), _STRONG
            case "A_Expr":
                return ("nullif", _STRONG) if inner.get("kind") == "AEXPR_NULLIF" else (None, 0)
            case "TypeCast":
                name, strength = _figured(inner.get("arg", {}))
                return (name, strength) if strength > _WEAK else (tree.type_name(inner["typeName"]).name, _WEAK)
            case "CollateClause":
                return _figured(inner.get("arg", {}))
            case "CaseExpr":
                name, strength = _figured(inner.get("defresult", {}))
                return (name, strength) if strength > _WEAK else ("case", _WEAK)
            case "SubLink":
                return _of_subquery(inner)
        return (_BY_KIND[kind], _STRONG) if kind in _BY_KIND else (None, 0)
    return None, 0


def _last_field(kind: str, inner: Node) -> tuple[str | None, int]:
    fields = [name for name in tree.texts(inner.get("fields" if kind == "ColumnRef" else "indirection")) if name]
    named = [name for name in fields if name != "*"]
    if named:
        return named[-1], _STRONG
    return _figured(inner["arg"]) if kind == "A_Indirection" else (None, 0)


def _of_subquery(inner: Node) -> tuple[str | None, int]:
    kind = inner.get("subLinkType", "")
    if kind in _SUBLINKS:
        return _SUBLINKS[kind], _STRONG
    if kind != "EXPR_SUBLINK":
        return None, 0
    query = inner.get("subselect", {}).get("SelectStmt", {})
    while "larg" in query:
        query = query["larg"]
    targets = query.get("targetList", ())
    if not targets:
        return None, 0
    target = targets[0]["ResTarget"]
    return (target["name"], _STRONG) if "name" in target else _figured(target.get("val", {}))
