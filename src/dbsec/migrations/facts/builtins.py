"""What a server's own catalog says of functions, casts and operators: lists that no one keeps by hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

from msgspec import json

if TYPE_CHECKING:
    import psycopg

MEASURED = (15, 17, 18)

_VOLATILE: LiteralString = """
SELECT proname::text, bool_and(provolatile = 'v') FROM pg_proc
 WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND prorettype <> 'trigger'::regtype
 GROUP BY proname HAVING bool_or(provolatile = 'v') ORDER BY proname
"""
_SETTLED: LiteralString = """
SELECT proname::text FROM pg_proc p
 WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f'
   AND NOT prorettype = ANY ('{trigger,event_trigger,internal,cstring}'::regtype[])
   AND NOT ('internal'::regtype = ANY (proargtypes) OR 'cstring'::regtype = ANY (proargtypes))
   AND NOT EXISTS (SELECT FROM pg_amproc a WHERE a.amproc = p.oid) AND proname !~ '^pg_stat_|(send|recv)$'
   AND obj_description(p.oid, 'pg_proc') NOT LIKE 'implementation of %'
 GROUP BY proname HAVING NOT bool_or(provolatile = 'v') ORDER BY proname
"""
_ASSIGNMENTS: LiteralString = """
SELECT s.typname::text, t.typname::text FROM pg_cast c
  JOIN pg_type s ON s.oid = castsource JOIN pg_type t ON t.oid = casttarget
 WHERE castcontext <> 'e' AND castsource <> casttarget ORDER BY 1, 2
"""
_CASTS: LiteralString = """
SELECT s.typname::text, t.typname::text FROM pg_cast c
  JOIN pg_type s ON s.oid = castsource JOIN pg_type t ON t.oid = casttarget
 WHERE castmethod = 'b' ORDER BY 1, 2
"""
_CLASSES: LiteralString = """
SELECT a.amname::text, t.typname::text, f.opfname::text FROM pg_opclass c
  JOIN pg_am a ON a.oid = opcmethod JOIN pg_type t ON t.oid = opcintype JOIN pg_opfamily f ON f.oid = opcfamily
 WHERE opcdefault ORDER BY 1, 2
"""
_UNEQUAL: LiteralString = """
SELECT typname::text FROM pg_type t
 WHERE typtype = 'b' AND typcategory <> 'A' AND typnamespace = 'pg_catalog'::regnamespace AND typname !~ '^_'
   AND NOT EXISTS (SELECT FROM pg_opclass JOIN pg_am a ON a.oid = opcmethod
                    WHERE amname IN ('btree', 'hash') AND opcdefault
                      AND (opcintype = t.oid OR EXISTS (
                          SELECT FROM pg_cast
                           WHERE castsource = t.oid AND casttarget = opcintype AND castmethod = 'b')))
 ORDER BY 1
"""


def read(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """Read the lists from a server.

    Shape: ``volatile`` (every overload), ``partly_volatile`` (some), ``settled`` (none, of those that one calls by
    name), ``binary_casts`` [[from, to]], ``assignment_casts`` [[from, to]] (without an explicit cast; beside these any
    type goes into a string type), ``index_families`` {method: {type: family}} of default operator classes,
    ``no_equality`` (types without = for DISTINCT and GROUP BY).
    """
    named = connection.execute(_VOLATILE).fetchall()
    families: dict[str, dict[str, str]] = {}
    for method, type_name, family in connection.execute(_CLASSES):
        families.setdefault(method, {})[type_name] = family
    version = connection.execute("SELECT current_setting('server_version')").fetchone()
    return {
        "version": str(version[0]).split()[0] if version else "",
        "volatile": [name for name, every in named if every],
        "partly_volatile": [name for name, every in named if not every],
        "settled": [row[0] for row in connection.execute(_SETTLED)],
        "assignment_casts": [list(row) for row in connection.execute(_ASSIGNMENTS)],
        "binary_casts": [list(row) for row in connection.execute(_CASTS)],
        "index_families": families,
        "no_equality": [row[0] for row in connection.execute(_UNEQUAL)],
    }


@cache
def load(major: int) -> dict[str, Any]:
    """Load the lists of a major; one that was not measured gets those of the next measured one."""
    nearest = next((known for known in MEASURED if known >= major), MEASURED[-1])
    loaded: dict[str, Any] = json.decode(Path(__file__).with_name(f"builtins{nearest}.json").read_bytes())
    return loaded
