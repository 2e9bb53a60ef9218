"""The bodies of functions: what they do inside is a part of what the statement does that calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

from dbsec.migrations import tree
from dbsec.migrations.names import Name
from dbsec.migrations.reading.parse import parse
from dbsec.migrations.script import Script
from dbsec.migrations.statement import Statement

if TYPE_CHECKING:
    import psycopg

_BODIES: LiteralString = """
SELECT n.nspname, p.proname, l.lanname, p.prosrc FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_language l ON l.oid = p.prolang
 WHERE p.provolatile = 'v' AND p.prosqlbody IS NULL AND l.lanname IN ('sql', 'plpgsql')
   AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""


@dataclass(frozen=True, slots=True)
class Body:
    """A function's source, as ``CREATE FUNCTION`` has it."""

    language: str
    source: str


Bodies = Mapping[Name, Sequence[Body]]


def bodies_of(connection: psycopg.Connection[Any]) -> Bodies:
    """Read the bodies of the server's volatile functions, so that what they do inside is foretold too."""
    from psycopg.rows import tuple_row

    found: dict[Name, list[Body]] = {}
    with connection.cursor(row_factory=tuple_row) as cursor:
        for place, name, language, source in cursor.execute(_BODIES):
            found.setdefault(Name(place, name), []).append(Body(language, source))
    return found


def statements(body: Body) -> tuple[list[Statement], bool]:
    """Read the statements of a function; False where some of them cannot be known."""
    if body.language == "sql":
        found, unread = parse(Script("-", body.source))
        return found, not unread
    if body.language != "plpgsql":
        return [], False
    tag = "$dbsec$"
    while tag in body.source:
        tag = f"$d{tag[1:]}"
    found, unread = parse(Script("-", f"DO {tag}{body.source}{tag}"))
    inner = [one for one in found if one.kind != "DoStmt"]
    return inner, not unread and not any("dbsec_dynamic" in one.node for one in found)


def body_of(statement: Statement) -> Body:
    """Read language and source of CREATE FUNCTION; a body that is no text is left as "atomic", which is unread."""
    node = statement.node
    language = tree.text((tree.option(node.get("options"), "language") or {}).get("arg", {}))
    source = (tree.option(node.get("options"), "as") or {}).get("arg", {})
    parts = source.get("List", {}).get("items", ())
    return Body(language.lower(), tree.text(parts[0])) if parts else Body("atomic", "")
