"""What text an expression of PL/pgSQL can have, as far as its literals and variables tell: for EXECUTE."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import islice, product
from typing import Any

from dbsec.migrations.reading import grammar
from dbsec.migrations.statement import Node

UNKNOWN = "\ue000"  # a part that only the server knows; a character of the private use area, which no migration has
PLACEHOLDER = "dbsec_unknown"
MOST = 16  # texts that are followed up per expression

Known = Mapping[str, tuple[Any, ...]]
"""Variables with the values that each can have: texts, and tuples of texts for arrays."""

_FORMAT = re.compile(r"%(?:(?P<position>\d+)\$)?-?(?:\d+|\*)?(?P<kind>[sIL%])")
_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*\Z")


def values(expression: str, known: Known) -> tuple[tuple[Any, ...], int]:
    """Evaluate an expression: its possible values, and where its first literal begins (0 where it has none)."""
    node = grammar.expression_of(expression)
    if node is None:
        return (UNKNOWN,), 0
    try:
        found = _of(node, known)
    except (KeyError, IndexError, RecursionError):
        return (UNKNOWN,), 0
    return tuple(islice(dict.fromkeys(found), MOST)), max(_first_literal(node) - len("SELECT "), 0)


def placed(text: str) -> str:
    """Put the placeholder where the text has a part that is not known."""
    return text.replace(UNKNOWN, PLACEHOLDER)


def _of(node: Node, known: Known) -> tuple[Any, ...]:
    kind, body = next(iter(node.items()))
    reader = _READERS.get(kind)
    return reader(body, known) if reader else (UNKNOWN,)


def _constant(body: Node, _: Known) -> tuple[Any, ...]:
    if body.get("isnull"):
        return (UNKNOWN,)
    for key in ("sval", "fval", "ival"):
        if key in body:
            return (str(body[key].get(key, "" if key == "sval" else 0)),)
    return (UNKNOWN,)


def _column(body: Node, known: Known) -> tuple[Any, ...]:
    names = [field.get("String", {}).get("sval", "*") for field in body["fields"]]
    return known.get(".".join(names), (UNKNOWN,))


def _operator(body: Node, known: Known) -> tuple[Any, ...]:
    if body["name"][-1]["String"]["sval"] != "||" or "lexpr" not in body:
        return (UNKNOWN,)
    return _joined([_of(body["lexpr"], known), _of(body["rexpr"], known)])


def _joined(parts: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    texts = ([one if isinstance(one, str) else UNKNOWN for one in part] for part in parts)
    return tuple("".join(chosen) for chosen in islice(product(*texts), MOST))


def _call(body: Node, known: Known) -> tuple[Any, ...]:
    name = body["funcname"][-1]["String"]["sval"]
    arguments = [_of(argument, known) for argument in body.get("args", ())]
    if body.get("func_variadic") or not arguments:
        return (UNKNOWN,)
    if name == "format":
        return tuple(_formatted(chosen) for chosen in islice(product(*arguments), MOST))
    if name == "concat":
        return _joined(arguments)
    if name in _FUNCTIONS:
        return tuple(_FUNCTIONS[name](one) if isinstance(one, str) else UNKNOWN for one in arguments[0])
    return (UNKNOWN,)


def _formatted(chosen: tuple[Any, ...]) -> str:
    template, *arguments = (one if isinstance(one, str) else UNKNOWN for one in chosen)
    turn = 0

    def replaced(found: re.Match[str]) -> str:
        nonlocal turn
        if found["kind"] == "%":
            return "%"
        turn = int(found["position"]) if found["position"] else turn + 1
        value = arguments[turn - 1] if 0 < turn <= len(arguments) else UNKNOWN
        if found["kind"] == "s":
            return str(value)
        return _identifier(value) if found["kind"] == "I" else _literal(value)

    return _FORMAT.sub(replaced, template)


def _identifier(text: str) -> str:
    if UNKNOWN in text:
        return text if _PLAIN.match(text.replace(UNKNOWN, "x")) else UNKNOWN
    return text if _PLAIN.match(text) and text not in _keywords() else '"' + text.replace('"', '""') + '"'


@cache
def _keywords() -> frozenset[str]:
    from pglast import keywords

    return frozenset(keywords.RESERVED_KEYWORDS | keywords.COL_NAME_KEYWORDS | keywords.TYPE_FUNC_NAME_KEYWORDS)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _array(body: Node, known: Known) -> tuple[Any, ...]:
    return (tuple(_of(element, known)[0] for element in body.get("elements", ())),)


def _case(body: Node, known: Known) -> tuple[Any, ...]:
    results = [when["CaseWhen"]["result"] for when in body["args"]]
    return tuple(one for result in (*results, body.get("defresult", {"": {}})) for one in _of(result, known))


def _either(body: Node, known: Known) -> tuple[Any, ...]:
    return tuple(one for argument in body["args"] for one in _of(argument, known))


def _first_literal(node: Any) -> int:
    """Find the place of the first string in the tree, in bytes of the text; 0 where there is none."""
    if isinstance(node, list):
        return next((place for child in node if (place := _first_literal(child))), 0)
    if not isinstance(node, dict):
        return 0
    if "sval" in node and "location" in node:
        return int(node["location"])
    return next((place for child in node.values() if (place := _first_literal(child))), 0)


_FUNCTIONS = {
    "quote_ident": _identifier,
    "quote_literal": _literal,
    "quote_nullable": _literal,
    "lower": str.lower,
    "upper": str.upper,
    "trim": str.strip,
    "btrim": str.strip,
}
_READERS = {
    "A_Const": _constant,
    "ColumnRef": _column,
    "A_Expr": _operator,
    "FuncCall": _call,
    "TypeCast": lambda body, known: _of(body["arg"], known),
    "A_ArrayExpr": _array,
    "CaseExpr": _case,
    "CoalesceExpr": _either,
}
