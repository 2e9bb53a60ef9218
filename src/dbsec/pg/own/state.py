"""What of dbsec's own schema is there, in which version, and who may use it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg

from dbsec.errors import ApplyError, NewerFormat
from dbsec.pg.own.steps import VERSION

OWNER = "dbsec_owner"
SCHEMA = "dbsec"
_TABLE: LiteralString = """
SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT'), current_user
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'dbsec' AND c.relname = 'schema_version'
"""
_VERSIONS: LiteralString = "SELECT version, min_client, installed_at, dbsec FROM dbsec.schema_version ORDER BY version"
_USERS: LiteralString = """
SELECT r.rolname FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
  JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
 WHERE n.nspname = 'dbsec' AND a.privilege_type = 'USAGE' AND a.grantee <> n.nspowner
 ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """A step that was run, when, and by which dbsec."""

    version: int
    min_client: int
    at: datetime
    dbsec: str


def steps(connection: psycopg.Connection[Any]) -> list[Installed]:
    """Read which steps were run, oldest first; none where the schema is not there.

    Errors: ``ApplyError`` where our role may not read it.
    """
    row = connection.execute(_TABLE).fetchone()
    if row is None:
        return []
    allowed, user = row
    if not allowed:
        hint = f"dbsec db install --user {user} --apply, as the role that installed it"
        raise ApplyError(f"role '{user}' may not use schema '{SCHEMA}'", hint=hint)
    return [Installed(*found) for found in connection.execute(_VERSIONS)]


def installed(connection: psycopg.Connection[Any]) -> int | None:
    """Return the version of the schema; None where it is not installed. Errors: ``ApplyError`` without rights on it."""
    return max((step.version for step in steps(connection)), default=None)


def require(connection: psycopg.Connection[Any], version: int = VERSION) -> None:
    """Make sure that the schema is there, at least in ``version``, and that this dbsec may use it.

    Errors: ``ApplyError`` with the command that installs or upgrades it; ``NewerFormat``.
    """
    found = steps(connection)
    has = max((step.version for step in found), default=0)
    if not found:
        hint = "dbsec db install --dsn REF --user ROLE --apply"
        raise ApplyError(f"schema '{SCHEMA}' is not installed in this database", hint=hint)
    refuse_newer(found)
    if has < version:
        hint = "dbsec db upgrade --dsn REF --apply"
        raise ApplyError(f"schema '{SCHEMA}' has version {has}, and version {version} is needed", hint=hint)


def refuse_newer(found: list[Installed]) -> None:
    """Refuse a schema with a step that this dbsec cannot live with. Errors: ``NewerFormat``."""
    if any(step.min_client > VERSION for step in found):
        raise NewerFormat(f"schema '{SCHEMA}'", found=found[-1].version, known=VERSION)


def users(connection: psycopg.Connection[Any]) -> list[str]:
    """Name the roles that were given the use of the schema."""
    return [row[0] for row in connection.execute(_USERS)]
