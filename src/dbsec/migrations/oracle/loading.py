"""Loads a schema dump into a scratch database: what psql would, and roles that are missing are made."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg import sql

from dbsec.migrations.reading.parse import parse
from dbsec.migrations.reading.psql import sql_of
from dbsec.migrations.script import Script, Unread
from dbsec.migrations.statement import Origin, Statement

_NO_ROLE = "42704"
_ROLE = re.compile(r'role "(.+)" does not exist')
_ONLY_ROLES = {"GrantStmt", "GrantRoleStmt", "AlterOwnerStmt", "AlterDefaultPrivilegesStmt"}


def load(session: psycopg.Connection[Any], text: str, *, source: str, roles: bool) -> list[Unread]:
    """Run a dump, one statement after another in autocommit; returns what the server refused.

    ``roles``: make those that it names and the server lacks, NOLOGIN; else what only speaks of them is left out.
    """
    statements, unread = parse(Script(source, sql_of(text)))
    for statement in statements:
        if statement.origin is not Origin.DIRECT or rows_follow(statement):
            continue
        if error := _run(session, statement.text, roles=roles):
            sqlstate, message = error
            if not (sqlstate == _NO_ROLE and _ROLE.search(message) and not roles and statement.kind in _ONLY_ROLES):
                unread.append(Unread(source, statement.line, f"PostgreSQL refuses it ({sqlstate}): {message}"))
    session.execute("RESET ALL")
    return unread


def rows_follow(statement: Statement) -> bool:
    """Tell whether rows belong to a statement that are not in its text: COPY … FROM stdin."""
    return statement.kind == "CopyStmt" and bool(statement.node.get("is_from")) and not statement.node.get("filename")


def _run(session: psycopg.Connection[Any], text: str, *, roles: bool) -> tuple[str, str] | None:
    made: set[str] = set()
    while True:
        try:
            session.execute(text.encode())
        except psycopg.Error as exc:
            sqlstate, message = exc.sqlstate or "", (str(exc).strip() or type(exc).__name__).splitlines()[0]
            missing = _ROLE.search(message) if sqlstate == _NO_ROLE and roles else None
            if missing is None or missing[1] in made:
                return sqlstate, message
            session.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(missing[1])))
            made.add(missing[1])
        else:
            return None
