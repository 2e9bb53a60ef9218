"""Find out whether prepared statements survive on a connection, by behaviour and not by version.

A pooler in transaction mode gives each transaction another server connection, where a statement prepared before does
not exist. PgBouncer before 1.21 (and later ones with max_prepared_statements = 0) let the name of a statement through
unchanged; those that keep track of statements give it a name of their own on the server.
"""

from __future__ import annotations

import secrets
from typing import Any

import psycopg
from psycopg import capabilities


def behind_pooler(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether something answers for the server: a pooler hands out a process id of its own for cancelling."""
    row = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
    return row is not None and int(row[0]) != connection.info.backend_pid


def keeps_prepared_statements(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether a statement that is prepared now can be executed in a later transaction.

    Must run inside a transaction, so that preparing and looking reach one server connection. What was prepared is
    closed again: on a shared server connection it would be in another client's way.
    """
    if not behind_pooler(connection):
        return True
    if not capabilities.has_send_close_prepared():
        return False  # libpq before 17 cannot tell a pooler that a statement is no longer needed
    name = f"dbsec_probe_{secrets.token_hex(8)}"
    connection.pgconn.prepare(name.encode(), b"SELECT 1")
    seen = connection.execute("SELECT FROM pg_prepared_statements WHERE name = %s", (name,), prepare=False).fetchone()
    connection.pgconn.close_prepared(name.encode())
    return seen is None


def configure(connection: psycopg.Connection[Any]) -> None:
    """Set a new connection of a pool up: never prepare where statements do not survive."""
    with connection.transaction():
        if not keeps_prepared_statements(connection):
            connection.prepare_threshold = None
