"""The one place that opens connections to PostgreSQL."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from dbsec import __version__
from dbsec.errors import ConnectError
from dbsec.pg.conninfo import Conninfo

_PREFIX = re.compile(r"^connection failed: |connection to server (?:on|at) [^:]+: ")


def connect(
    conninfo: Conninfo, *, autocommit: bool = True, timeout_s: int = 5, application_name: str = ""
) -> psycopg.Connection[Any]:
    """Open one connection; the caller closes it.

    ``application_name`` is ``dbsec@VERSION`` unless told; client_encoding is UTF8. Errors: ``ConnectError`` with
    libpq's text of the first address tried, never with the password.
    """
    name = application_name or conninfo.params.get("application_name") or f"dbsec@{__version__}"
    # SQL text is sent as UTF-8, whatever PGCLIENTENCODING or the role's settings say
    full = conninfo.but(application_name=name, connect_timeout=timeout_s, client_encoding="UTF8")
    try:
        return psycopg.connect(full.text(), autocommit=autocommit)
    except psycopg.OperationalError as exc:
        reason = _PREFIX.sub("", str(exc).strip()).splitlines()[0]
        raise ConnectError(
            f"cannot log in as '{conninfo.user}' at {conninfo.host}:{conninfo.port}: {reason}",
            sqlstate=exc.sqlstate,
            hint="see the server's log",
        ) from exc


def settle(connection: psycopg.Connection[Any]) -> None:
    """Wait for the answer to a statement that an interrupt cut off, and drop it; else the session takes no other.

    Nothing is waited for where the session is idle or broken. The statement is not cancelled: what it did stands.
    """
    pgconn = connection.pgconn
    while pgconn.transaction_status == TransactionStatus.ACTIVE and pgconn.get_result() is not None:
        pass
