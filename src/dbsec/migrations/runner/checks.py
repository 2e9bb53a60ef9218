"""``NNN_name.check.sql``: queries that must hold after a migration; each gives no row, or the one value true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from dbsec.errors import ConfigError, reason
from dbsec.migrations.runner.files import Migration, script_of
from dbsec.migrations.runner.obstacle import Block, Obstacle
from dbsec.migrations.runner.stepping import turns_of
from dbsec.migrations.runner.words import shown
from dbsec.migrations.statement import Statement
from dbsec.pg import quoting


def obstacles(connection: psycopg.Connection[Any], migration: Migration, *, timeout_s: float) -> list[Obstacle]:
    """Run a migration's check in one transaction, read only; none where it has no check, or all of it holds.

    Locks: ACCESS SHARE on what the queries read, waited for 5 s. Errors: ``ConfigError`` for what is no query.
    """
    if migration.check is None:
        return []
    found = []
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute("SET LOCAL lock_timeout = '5s'")
        cursor.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(int(timeout_s * 1000)))
        for statement in queries(migration.check):
            message = _judged(cursor, statement)
            if message:
                where = f"{migration.check}:{statement.line}"
                found.append(
                    Obstacle(
                        Block.CHECK,
                        f"{where}: {shown(statement)}: {message}",
                        "psql, to see the rows",
                        migration.number,
                    )
                )
                break
    return found


def queries(path: Path) -> list[Statement]:
    """Read the queries of a check. Errors: ``ConfigError`` where one is no SELECT, or there is none."""
    found = [statement for turn in turns_of(script_of(path)) for statement in turn.statements]
    for statement in found:
        if statement.kind != "SelectStmt":
            raise ConfigError(
                f"{path}:{statement.line}: a check only reads", hint="SELECT ... that gives true, or no row"
            )
    if not found:
        raise ConfigError(f"'{path}' checks nothing", hint="SELECT count(*) = 0 FROM ... WHERE ...")
    return found


def _judged(cursor: psycopg.Cursor[tuple[Any, ...]], statement: Statement) -> str:
    try:
        cursor.execute(statement.text.encode())
        rows = cursor.fetchmany(2)
    except psycopg.Error as exc:
        return f"cannot be run: {reason(exc) if _quotes_nothing(exc) else exc.sqlstate}"
    if not rows or (len(rows) == 1 and len(rows[0]) == 1 and rows[0][0] is True):
        return ""
    if len(rows) == 1 and len(rows[0]) == 1 and (rows[0][0] is None or rows[0][0] is False):
        return f"gives {'null' if rows[0][0] is None else 'false'}"
    return f"gives {cursor.rowcount} row{'' if cursor.rowcount == 1 else 's'}"


# whose text quotes no value of a row: timeouts, what is missing, what is not allowed
_OURS = frozenset({"57014", "55P03", "42P01", "42703", "42883", "42501", "25006", "3F000"})


def _quotes_nothing(exc: psycopg.Error) -> bool:
    return exc.sqlstate in _OURS and not quoting.by_function(exc)
