"""What a service's role may do with the keyring: read it, add a key, count encryptions; never change or delete one."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from dbsec.pg import own

_GRANT = SQL(
    "GRANT USAGE ON SCHEMA dbsec TO {role};"
    "GRANT SELECT ON dbsec.schema_version TO {role};"
    "GRANT SELECT, INSERT (tenant, context, purpose, generation, wrapped, kek, kek_version, commitment, salt),"
    " UPDATE (used) ON dbsec.keyring TO {role}"
)


def allow(connection: psycopg.Connection[Any], role: str) -> None:
    """Let a role encrypt and decrypt: the least that ``PostgresKeyStore`` needs.

    Errors: ``ApplyError`` where schema dbsec is missing or older; ``psycopg.Error`` where we may not grant.
    """
    own.require(connection, 5)
    with connection.transaction():
        for statement in _GRANT.format(role=Identifier(role)).as_string().split(";"):
            connection.execute(statement.encode())
