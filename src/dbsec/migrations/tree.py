"""Small questions to libpg_query's JSON tree: names, relations, columns, functions and constants in a node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dbsec.migrations.names import Name
from dbsec.migrations.statement import Node

_STAR = "*"
_WITHOUT_RELATIONS = {"withClause", "A_Const", "ColumnRef", "String", "typeName", "name", "funcname", "alias"}
_PLACES = ("location", "list_start", "list_end")


def text(node: Node) -> str:
    """Return what ``{"String": {"sval": …}}`` says; ``*`` for a star."""
    if "String" in node:
        return str(node["String"].get("sval", ""))
    return _STAR if "A_Star" in node else ""


def texts(nodes: Iterable[Node] | None) -> tuple[str, ...]:
    """Return what a list of String nodes says."""
    return tuple([text(node) for node in nodes]) if nodes else ()


def name_of(range_var: Node) -> Name:
    """Return the name that stands in a RangeVar (wrapped or not); a database's name before it is left out."""
    inner = range_var.get("RangeVar", range_var)
    return Name(inner.get("schemaname"), inner.get("relname", ""))


def names_of(range_vars: Iterable[Node] | None) -> tuple[Name, ...]:
    """Return the names of a list of RangeVars."""
    return tuple(name_of(range_var) for range_var in range_vars or ())


def dotted(parts: Sequence[str]) -> Name:
    """Make a name of ``(name)``, ``(schema, name)`` or ``(database, schema, name)``."""
    if not parts:
        return Name(None, "")
    return Name(parts[-2] if len(parts) > 1 else None, parts[-1])


def object_name(node: Node) -> Name:
    """Return the name of what DROP, COMMENT or ALTER … OWNER TO names, whatever the node."""
    if "List" in node:
        return dotted([str(object_name(item)) if "TypeName" in item else text(item) for item in node["List"]["items"]])
    if "TypeName" in node:
        return type_name(node["TypeName"])
    if "ObjectWithArgs" in node:
        return dotted(texts(node["ObjectWithArgs"].get("objname")))
    return name_of(node) if "RangeVar" in node else Name(None, text(node))


def type_name(node: Node) -> Name:
    """Return the name of a TypeName's inner node; ``pg_catalog`` is no schema."""
    name = dotted(texts(node.get("names")))
    return Name(None, name.name) if name.schema == "pg_catalog" else name


def walk(node: Any) -> Iterator[tuple[str, Node]]:
    """Yield every wrapped node below (and with) ``node`` as kind and inner node, in the order of the text."""
    stack = [node] if node is not None else []
    while stack:
        here = stack.pop()
        if type(here) is list:
            stack += here[::-1]
        elif type(here) is dict:
            below: list[Any] = []
            for key, value in here.items():
                if type(value) is dict:
                    below.append(value)
                    if key[0].isupper():
                        yield key, value
                elif type(value) is list:
                    below.append(value)
            stack += below[::-1]


def column_refs(node: Any) -> Iterator[tuple[str, ...]]:
    """Yield the parts of each column reference: ``("t", "id")``, ``("id",)``, ``("t", "*")``."""
    for kind, inner in walk(node):
        if kind == "ColumnRef":
            yield texts(inner.get("fields"))


def columns_in(node: Any) -> tuple[str, ...]:
    """Return the names of the columns that an expression reads, each once, in order."""
    if node is None:
        return ()
    return tuple(dict.fromkeys(parts[-1] for parts in column_refs(node) if parts and parts[-1] != _STAR))


def functions_in(node: Any) -> tuple[Name, ...]:
    """Return the functions that an expression calls, each once, in order; ``pg_catalog`` is no schema.

    Grammar that is a function (``CURRENT_TIMESTAMP``, ``EXTRACT``) bears PostgreSQL's name for it.
    """
    found: dict[Name, None] = {}
    for kind, inner in walk(node):
        if kind == "FuncCall":
            name = dotted(texts(inner.get("funcname")))
            found[Name(None, name.name) if name.schema == "pg_catalog" else name] = None
        elif kind == "SQLValueFunction":
            found[Name(None, str(inner.get("op", "")).removeprefix("SVFOP_").removesuffix("_N").lower())] = None
    return tuple(found)


def constant(node: Node | None) -> str | None:
    """Return a constant as text (casts and signs are seen through); None for NULL and for what is no constant."""
    if node is None:
        return None
    if "TypeCast" in node:
        return constant(node["TypeCast"].get("arg"))
    if "A_Const" not in node or node["A_Const"].get("isnull"):
        return text(node) if "String" in node else None
    inner = node["A_Const"]
    if "boolval" in inner:
        return "true" if inner["boolval"].get("boolval") else "false"
    for key, default in (("ival", "0"), ("fval", ""), ("sval", ""), ("bsval", "")):
        if key in inner:
            return str(inner[key].get(key, default))
    return None


def is_null(node: Node | None) -> bool:
    """Tell whether an expression is the constant NULL, with casts or without."""
    while node is not None and "TypeCast" in node:
        node = node["TypeCast"].get("arg")
    return node is not None and "A_Const" in node and bool(node["A_Const"].get("isnull"))


def relations_in(node: Any) -> tuple[Name, ...]:
    """Return the relations that a query names, each once, in order; names of its WITH clauses are none.

    Targets of INSERT, UPDATE and DELETE inside are not among them.
    """
    found: dict[Name, None] = {}
    _relations(node, frozenset(), found)
    return tuple(found)


def _relations(node: Any, hidden: frozenset[str], found: dict[Name, None]) -> None:
    if isinstance(node, list):
        for item in node:
            _relations(item, hidden, found)
    elif isinstance(node, dict):
        if "withClause" in node:
            hidden = _with_relations(node["withClause"], hidden, found)
        for key, value in node.items():
            if key == "RangeVar":
                if value.get("schemaname") or value.get("relname") not in hidden:
                    found[name_of(value)] = None
            elif key not in _WITHOUT_RELATIONS and isinstance(value, (dict, list)):
                _relations(value, hidden, found)


def _with_relations(clause: Node, hidden: frozenset[str], found: dict[Name, None]) -> frozenset[str]:
    """Collect from a WITH clause and return the names that are hidden after it."""
    ctes = [cte["CommonTableExpr"] for cte in clause.get("ctes", ())]
    names = frozenset(cte.get("ctename", "") for cte in ctes)
    before: frozenset[str] = names if clause.get("recursive") else frozenset()
    for cte in ctes:
        _relations(cte.get("ctequery"), hidden | before, found)
        before = before | {cte.get("ctename", "")}
    return hidden | names


def option(options: Iterable[Node] | None, name: str) -> Node | None:
    """Find a DefElem by name."""
    for item in options or ():
        if item["DefElem"].get("defname") == name:
            return dict(item["DefElem"])
    return None


def switched_on(element: Node | None) -> bool:
    """Tell whether an option as ``FULL``, ``FULL true`` or ``FULL 1`` is on; an absent one is off."""
    if element is None:
        return False
    argument = element.get("arg")
    if argument is None:
        return True
    if "Boolean" in argument:
        return bool(argument["Boolean"].get("boolval"))
    if "Integer" in argument:
        return bool(argument["Integer"].get("ival"))
    return (constant(argument) or "").lower() not in ("false", "off", "no", "0")


def bare(node: Any) -> Any:
    """Return a copy of a node without the places in the text, so that two that say the same are equal."""
    if isinstance(node, dict):
        return {key: bare(value) for key, value in node.items() if not key.endswith(_PLACES)}
    return [bare(item) for item in node] if isinstance(node, list) else node


def renamed(node: Any, old: str, new: str) -> Any:
    """Return a copy of an expression in which the column ``old`` is called ``new``."""
    if isinstance(node, list):
        return [renamed(item, old, new) for item in node]
    if not isinstance(node, dict):
        return node
    if "ColumnRef" in node and texts(node["ColumnRef"].get("fields"))[-1:] == (old,):
        fields = [*node["ColumnRef"]["fields"][:-1], {"String": {"sval": new}}]
        return {"ColumnRef": {**node["ColumnRef"], "fields": fields}}
    return {key: renamed(value, old, new) for key, value in node.items()}
