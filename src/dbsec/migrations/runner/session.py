"""The session that a release runs in: it must be one on the server, and gets its settings back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from dbsec.errors import ConnectError, UsageError
from dbsec.migrations.runner.limits import Limits

_PROBES = 4
_SAVED: LiteralString = """
SELECT name, pg_catalog.current_setting(name), source OPERATOR(pg_catalog.=) 'session'
  FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) ANY (%s)
"""
_WRITABLE: LiteralString = """
SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only'), session_user
"""


def require(connection: psycopg.Connection[Any], limits: Limits) -> int:
    """Refuse a connection that is no session of its own on the server; returns the server's major version.

    A pooler hands out a process number of its own making. In transaction mode each statement may run in another
    session, where the advisory lock and the timeouts of the one before do not hold.
    Errors: ``ConnectError``; ``UsageError`` for one that is in a transaction, not in autocommit, or not in UTF-8.
    """
    if not connection.autocommit or connection.info.transaction_status is not TransactionStatus.IDLE:
        raise UsageError("the runner needs a connection in autocommit that is in no transaction")
    need_utf8(connection)
    pid = connection.info.backend_pid
    seen = {_backend(connection)}
    if seen != {pid}:
        seen |= {_backend(connection) for _ in range(_PROBES)}
        if len(seen) > 1 or not limits.session_pool:
            raise ConnectError(
                f"a connection pooler stands between us and the server (we were told process {pid}, and "
                f"{', '.join(map(str, sorted(seen)))} answered): what a session has set or locked may vanish there",
                hint="connect to the server's own port; or, where the pool is in session mode, session_pool = true "
                "in [migrations.runner]",
            )
    return connection.info.server_version // 10000


def need_utf8(connection: psycopg.Connection[Any]) -> None:
    """Refuse a session that would read our UTF-8 as something else; asks the server nothing. Errors: ``UsageError``."""
    client, server = (connection.info.parameter_status(f"{end}_encoding") for end in ("client", "server"))
    if client != "UTF8" and not client == server == "SQL_ASCII":  # which takes every byte as it is
        raise UsageError(
            f"client_encoding of the session is {client}, and statements are sent as UTF-8",
            hint="PGCLIENTENCODING=UTF8, or client_encoding='utf8' where the connection is opened",
        )


def unwritable(connection: psycopg.Connection[Any]) -> ConnectError | None:
    """Say why nothing can be written here: a standby, or a login that only reads; None where it can."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(_WRITABLE, prepare=False).fetchone()
    assert row is not None
    standby, read_only, user = row
    where = f"{connection.info.host}:{connection.info.port}"
    if standby:
        message = f"the server at {where} is a standby (in recovery), on which nothing can be written"
        hint = "the DSN of the primary; target_session_attrs=primary in it"
        return ConnectError(message, sqlstate="25006", hint=hint)
    if read_only == "off":
        return None
    message = f"sessions of '{user}' only read here (default_transaction_read_only = on)"
    hint = f"another login; or ALTER ROLE {user} RESET default_transaction_read_only, where it is set for the role"
    return ConnectError(message, sqlstate="25006", hint=hint)


def end_with_client(connection: psycopg.Connection[Any]) -> None:
    """Let the server end what it runs for us once we are gone: an index build would go on for hours for nobody."""
    with suppress(psycopg.errors.InvalidParameterValue):  # a server's system that cannot see it
        connection.execute("SET client_connection_check_interval = '2s'", prepare=False)


def _backend(connection: psycopg.Connection[Any]) -> int:
    with connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute("SELECT pg_catalog.pg_backend_pid()", prepare=False).fetchone()
    return int(row[0]) if row else 0


def set_local(settings: Mapping[str, str]) -> sql.Composed:
    """Write SET LOCAL for each: gone with the transaction."""
    made = (
        sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(name), sql.Literal(value))
        for name, value in settings.items()
    )
    return sql.SQL("; ").join(made)


@contextmanager
def holding(connection: psycopg.Connection[Any], settings: Mapping[str, str]) -> Iterator[None]:
    """Set what a statement outside a transaction needs, and put back what the file or the login had set."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        saved = cursor.execute(_SAVED, (list(settings),), prepare=False).fetchall()
    _set(connection, settings)
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # a session that is gone has nothing to put back
            _set(connection, {name: value for name, value, own in saved if own})
            for name in (name for name, _, own in saved if not own):
                connection.execute(sql.SQL("RESET {}").format(sql.Identifier(name)), prepare=False)


def _set(connection: psycopg.Connection[Any], settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        connection.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)), prepare=False)
