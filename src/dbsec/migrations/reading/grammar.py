"""PostgreSQL's own grammar (libpg_query): text to JSON trees; the only place that calls it."""

from __future__ import annotations

import json
from typing import Any

from msgspec.json import Decoder

from dbsec.migrations.reading import libpg
from dbsec.migrations.statement import Node

_TOO_DEEP = "nested too deeply to be read"
_LARGE = 1 << 18
_MOST_COMMENTS = 1000  # one in the other: the time that PostgreSQL's scanner takes for them grows with the square
_LONGEST = 200  # of a message: it may quote a literal of megabytes
_DECODER = Decoder()
_SOME_CONSTANT: Node = {"A_Const": {"sval": {}}}


class Refusal(str):
    """What PostgreSQL said against a text; ``at`` is the index of the character at which it stumbled, or None."""

    at: int | None

    def __new__(cls, said: str, at: int | None = None) -> Refusal:
        made = super().__new__(cls, said if len(said) <= _LONGEST else said[:_LONGEST] + "…")
        made.at = at
        return made


def statements_of(text: str, *, single: bool = False) -> list[dict[str, Any]] | Refusal:
    """Parse SQL to libpg_query's list ``stmts``: keys ``stmt``, ``stmt_location`` and ``stmt_len`` (UTF-8 bytes).

    ``single``: the text is one statement. In a large one (rows to insert) constants lose their values, for memory.
    """
    parser = libpg.parser()
    if text.count("/*/*") > _MOST_COMMENTS:
        return Refusal(_TOO_DEEP)
    try:
        told = parser.parse_sql_json(text)
        if single and len(text) > _LARGE:
            tree = json.loads(told, object_hook=_without_constants)
        else:
            tree = _DECODER.decode(told)
    except parser.ParseError as exc:
        return Refusal(str(exc.args[0]), exc.args[1])
    except RecursionError:
        return Refusal(_TOO_DEEP)
    except ValueError as exc:  # text that is no Unicode
        return Refusal(str(exc))
    found: list[dict[str, Any]] = tree["stmts"]
    return found


def _without_constants(node: Node) -> Node:
    return _SOME_CONSTANT if "A_Const" in node else node


def expression_of(text: str) -> Node | None:
    """Parse one expression; locations count from ``SELECT `` before it. None where it is no single expression."""
    found = statements_of("SELECT " + text)
    if isinstance(found, Refusal):
        return None
    try:
        node: Node = found[0]["stmt"]["SelectStmt"]["targetList"][0]["ResTarget"]["val"]
    except (KeyError, IndexError):
        return None
    return node


def body_of(source: str) -> Node | Refusal:
    """Parse the body of a DO block to ``PLpgSQL_function``: keys ``datums`` and ``action``."""
    parser = libpg.parser()
    tag = "$dbsec$"
    while tag in source:
        tag = f"$d{tag[1:]}"
    try:
        functions = json.loads(parser.parse_plpgsql_json(f"DO {tag}{source}{tag}"), strict=False)
    except parser.ParseError as exc:
        return Refusal(str(exc.args[0]))
    except RecursionError:
        return Refusal(_TOO_DEEP)
    except ValueError as exc:
        return Refusal(str(exc))
    function: Node = functions[0].get("PLpgSQL_function", {}) if functions else {}
    return function
