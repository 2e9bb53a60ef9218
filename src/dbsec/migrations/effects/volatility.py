"""Does an expression give another value for each row: what decides whether ADD COLUMN … DEFAULT rewrites the table."""

from __future__ import annotations

from enum import Enum
from functools import cache

from dbsec.migrations import tree
from dbsec.migrations.facts import builtins
from dbsec.migrations.names import Name
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.statement import Node

# Functions of extensions that PostgreSQL itself ships: uuid-ossp, pgcrypto.
_EXTENSIONS = {
    "uuid_generate_v1": True,
    "uuid_generate_v1mc": True,
    "uuid_generate_v3": False,
    "uuid_generate_v4": True,
    "uuid_generate_v5": False,
    "uuid_nil": False,
    "gen_random_bytes": True,
    "gen_salt": True,
    "crypt": False,
    "digest": False,
    "hmac": False,
}
# Grammar that libpg_query shows as a function or as SQLValueFunction; none of it is volatile.
_GRAMMAR = frozenset(
    {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "current_catalog"}
    | {"current_role", "current_user", "session_user", "user", "current_schema"}
)


class Volatility(Enum):
    """``UNKNOWN`` is to be taken for volatile."""

    SETTLED = "settled"  # immutable or stable: evaluated once for the table
    VOLATILE = "volatile"
    UNKNOWN = "unknown"


def volatility(expression: Node, schema: Schema, major: int) -> tuple[Volatility, str]:
    """Tell how an expression behaves, and by which function."""
    unknown = ""
    for name in tree.functions_in(expression):
        found = _function(name, schema, major)
        if found is Volatility.VOLATILE:
            return found, str(name)
        if found is Volatility.UNKNOWN:
            unknown = str(name)
    return (Volatility.UNKNOWN, unknown) if unknown else (Volatility.SETTLED, "")


def _function(name: Name, schema: Schema, major: int) -> Volatility:
    if name.schema is None:
        volatile, settled = _builtins(major)
        if name.name in volatile:
            return Volatility.VOLATILE
        if name.name in settled or name.name in _GRAMMAR:
            return Volatility.SETTLED
    if (own := _own(name, schema)) is not None:
        return Volatility.VOLATILE if own == "volatile" else Volatility.SETTLED
    if name.name in _EXTENSIONS:
        return Volatility.VOLATILE if _EXTENSIONS[name.name] else Volatility.SETTLED
    return Volatility.UNKNOWN


def _own(name: Name, schema: Schema) -> str | None:
    if name.schema is not None:
        return schema.functions.get(name)
    found = (schema.functions.get(Name(path, name.name)) for path in schema.search_path)
    return next((volatility for volatility in found if volatility is not None), None)


@cache
def _builtins(major: int) -> tuple[frozenset[str], frozenset[str]]:
    known = builtins.load(major)
    return frozenset(known["volatile"]), frozenset(known["settled"])
