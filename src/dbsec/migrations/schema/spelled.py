"""SQL that PostgreSQL spells out of its catalog (pg_get_expr, pg_get_constraintdef …), read many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dbsec.migrations.interpret import operations_of
from dbsec.migrations.interpret.columns import type_of
from dbsec.migrations.operations import Operation, Type
from dbsec.migrations.reading import grammar
from dbsec.migrations.reading.parse import parse_text
from dbsec.migrations.statement import Node

_AT_ONCE = 500


def expressions(texts: Iterable[str | None]) -> dict[str, Node]:
    """Parse expressions; one that this parser does not know (of a newer PostgreSQL) is left out."""
    found: dict[str, Node] = {}
    for some in _portions(texts):
        read = grammar.statements_of("SELECT " + ",\n".join(some), single=True)
        targets = [] if isinstance(read, str) else read[0]["stmt"]["SelectStmt"]["targetList"]
        if len(targets) == len(some):
            found |= {text: target["ResTarget"]["val"] for text, target in zip(some, targets, strict=True)}
        else:
            singly = ((text, grammar.expression_of(text)) for text in some)
            found |= {text: node for text, node in singly if node is not None}
    return found


def types(texts: Iterable[str | None]) -> dict[str, Type]:
    """Parse the names of types, as format_type gives them."""
    casts = {text: f"NULL::{text}" for text in texts if text}
    nodes = expressions(casts.values())
    return {
        text: type_of(nodes[cast]["TypeCast"]["typeName"]) if cast in nodes else Type(text)
        for text, cast in casts.items()
    }


def operations(texts: Iterable[str | None]) -> dict[str, Operation]:
    """Parse statements of one operation each; one that this parser does not know is left out."""
    found: dict[str, Operation] = {}
    for some in _portions(texts):
        statements = parse_text(";\n".join(some))
        if len(statements) != len(some):
            singly = [(text, parse_text(text)) for text in some]
            some = [text for text, read in singly if len(read) == 1]
            statements = [read[0] for _, read in singly if len(read) == 1]
        found |= {text: operations_of(one)[0] for text, one in zip(some, statements, strict=True)}
    return found


def _portions(texts: Iterable[str | None]) -> Iterator[list[str]]:
    wanted = list(dict.fromkeys(text for text in texts if text))
    for start in range(0, len(wanted), _AT_ONCE):
        yield wanted[start : start + _AT_ONCE]
