"""The session of a worker and the settings of its transactions: nothing of them depends on the role's defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.pq import TransactionStatus

from dbsec.backfill.job import Job
from dbsec.config import Section
from dbsec.errors import ConnectError

Connect = Callable[[], psycopg.Connection[Any]]
_WRITING: LiteralString = """
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
       pg_catalog.set_config('lock_timeout', '0', true), pg_catalog.set_config('statement_timeout', '0', true),
       pg_catalog.set_config('idle_in_transaction_session_timeout', '60s', true),
       CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
            THEN pg_catalog.set_config('synchronous_commit', 'on', true) END
"""


class Limits(Section):
    """What a batch may cost others, and how long trouble is borne.

    ``lock_timeout_ms``: a batch waits no longer for a row, since whoever wants its other rows waits with it.
    ``statement_timeout_s``, ``python_timeout_s``: of a statement; of a python function, in whose transaction no row is
    locked yet. ``give_up_s``: of conflicts and lost connections on end, without one batch. ``reconnect_s``: of a
    server that cannot be reached. ``ranges``: at most so many, each of ``range_batches`` batches at least.
    """

    lock_timeout_ms: int = 200
    statement_timeout_s: float = 30
    python_timeout_s: float = 600
    give_up_s: float = 600
    reconnect_s: float = 300
    ranges: int = 64
    range_batches: int = 10


def opened(connect: Connect) -> psycopg.Connection[Any]:
    """Open a session: autocommit between batches, READ COMMITTED in them, no prepared statements (for poolers)."""
    connection = connect()
    tame(connection)
    if connection.execute("SELECT pg_catalog.pg_is_in_recovery()").fetchone() == (True,):
        connection.close()
        raise ConnectError("the server is a standby, which takes no writes", hint="name the primary in the DSN")
    connection.autocommit = True
    connection.isolation_level = IsolationLevel.READ_COMMITTED
    connection.read_only = False
    connection.prepare_threshold = None
    return connection


def tame(connection: psycopg.Connection[Any]) -> None:
    """Let a session speak as psycopg reads, whatever the role's defaults are, and prepare nothing (for poolers).

    Both settings are of the kind that a pooler in transaction mode keeps apart by client.
    """
    connection.prepare_threshold = None
    info = connection.info
    if info.parameter_status("client_encoding") != "UTF8":
        connection.execute("SET client_encoding = 'UTF8'")
    if not (info.parameter_status("DateStyle") or "").startswith("ISO"):
        connection.execute("SET datestyle = 'ISO, MDY'")


@contextmanager
def writing(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Open a transaction over dbsec's own tables: it may write, waits as long as it takes, and is durable."""
    outermost = connection.info.transaction_status is TransactionStatus.IDLE
    with connection.transaction():
        if outermost:
            connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE")
        connection.execute(_WRITING)
        yield


def settle(connection: psycopg.Connection[Any], job: Job, limits: Limits, *, long: bool = False) -> None:
    """Set what holds for this transaction alone; ``long``: it holds no row, and may wait for one that begins as well.

    synchronous_commit is off: rows and cursor are in one transaction, so a crash loses both and a batch is done again;
    the last commit of a job waits for the disk, and all before it are on disk with it. row_security is off: a policy
    that would hide rows is an error. dbsec.backfill tells triggers who writes.
    """
    path = ("pg_catalog", *job.search_path, "pg_temp")
    statement_s = limits.give_up_s if long else limits.statement_timeout_s
    idle_s = limits.python_timeout_s if job.python is not None else limits.statement_timeout_s
    values = {
        "search_path": sql.SQL(", ").join(map(sql.Identifier, path)).as_string(connection),
        "lock_timeout": "0" if long else f"{limits.lock_timeout_ms}ms",
        "statement_timeout": f"{int(statement_s * 1000)}ms",
        # ends the transaction of a worker whose host is gone without a word, and with it its claim
        "idle_in_transaction_session_timeout": f"{int(idle_s * 1000)}ms",
        "synchronous_commit": "off",
        "row_security": "off",
        # the same on every host, and what psycopg reads
        "datestyle": "ISO, MDY",
        "intervalstyle": "postgres",
        "extra_float_digits": "1",
        "bytea_output": "hex",
        "standard_conforming_strings": "on",
        "transform_null_equals": "off",
        "dbsec.backfill": "on",
    }
    if connection.info.server_version >= 170000:
        values["transaction_timeout"] = "0"  # the role's own would end the session in the middle of a batch
    calls = [sql.SQL("pg_catalog.set_config({}, {}, true)").format(name, value) for name, value in values.items()]
    connection.execute(sql.SQL("SELECT ") + sql.SQL(", ").join(calls))
