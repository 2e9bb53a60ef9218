"""The tree's enums in the words of ``operations``: kinds of objects, roles, rights."""

from __future__ import annotations

from functools import cache

from dbsec.migrations.statement import Node

_KINDS = {
    "OBJECT_MATVIEW": "materialized view",
    "OBJECT_FOREIGN_TABLE": "foreign table",
    "OBJECT_TABCONSTRAINT": "constraint",
    "OBJECT_DOMCONSTRAINT": "domain constraint",
    "OBJECT_STATISTIC_EXT": "statistics",
    "OBJECT_FOREIGN_SERVER": "server",
    "OBJECT_FDW": "foreign data wrapper",
    "OBJECT_OPCLASS": "operator class",
    "OBJECT_OPFAMILY": "operator family",
    "OBJECT_TSCONFIGURATION": "text search configuration",
    "OBJECT_TSDICTIONARY": "text search dictionary",
    "OBJECT_TSPARSER": "text search parser",
    "OBJECT_TSTEMPLATE": "text search template",
    "OBJECT_LARGEOBJECT": "large object",
}


@cache
def object_kind(enum: str) -> str:
    """Say ``OBJECT_MATVIEW`` as ``materialized view``."""
    return _KINDS.get(enum) or enum.removeprefix("OBJECT_").replace("_", " ").lower()


def role_of(node: Node) -> str:
    """Name the role of a RoleSpec (wrapped or not); ``current_user`` and its like in lower case, ``public`` too."""
    inner = node.get("RoleSpec", node)
    return str(inner.get("rolename") or inner.get("roletype", "").removeprefix("ROLESPEC_").lower())
