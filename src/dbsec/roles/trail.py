"""Is it in the log: who did what, from where and when."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from dbsec.errors import GaveUp
from dbsec.evidence import Observation, Outcome
from dbsec.pg import Conninfo, connect
from dbsec.retry import wait_until
from dbsec.roles import audit_log
from dbsec.roles.audit_log import LogLine

# The server writes before it answers; this is for a log that a pipe or a disk holds back.
_WITHIN_S = 0.5
_SELF: LiteralString = "SELECT session_user, coalesce(host(inet_client_addr()), '[local]')"


def ddl_is_logged(migrator: Conninfo, server_log: Path) -> Observation:
    """Make and drop a throw-away table as the migrator, and look for the DROP in the log."""
    mark, offset = f"dbsec_drill_{secrets.token_hex(4)}", server_log.stat().st_size
    with connect(migrator, application_name=mark) as session:
        user, address = _self(session)
        session.execute(SQL("CREATE TABLE app.{} (id int)").format(Identifier(mark)))
        session.execute(SQL("DROP TABLE app.{}").format(Identifier(mark)))
    found = _waited(server_log, offset, f'DROP TABLE app."{mark}"')
    proven = [line for line in found if _who(line) == (user, address, mark)]
    if proven:
        said = f"'{user}' dropped it from {address} at {proven[0].at.isoformat(timespec='milliseconds')}"
        return Observation(Outcome.PASS, said, {"found": proven[0].to_json()})
    seen = {"role": user, "from": address, "application": mark, "lines": [line.to_json() for line in found]}
    return Observation(Outcome.FAIL, f"'{user}' dropped a table and the log does not tell it", seen)


def superuser_is_logged(admin: Conninfo, server_log: Path) -> Observation:
    """Log in as superuser, read a table, and look for both in the log."""
    mark, offset = f"dbsec_drill_{secrets.token_hex(4)}", server_log.stat().st_size
    with connect(admin, application_name=mark) as session:
        user, address = _self(session)
        session.execute(SQL("SELECT {}").format(Literal(mark)))
    acted = [x for x in _waited(server_log, offset, f"SELECT '{mark}'") if _who(x) == (user, address, mark)]
    # the client's name is not in the prefix before it is authorised: the message has it
    login = f"connection authorized: user={user} "
    logins = [x for x in audit_log.find(server_log, offset=offset, user=user, contains=login) if mark in x.message]
    seen = {"role": user, "from": address, "logins": len(logins), "statements": len(acted)}
    if logins and acted and logins[0].host == address and not logins[0].doubtful:
        return Observation(Outcome.PASS, f"the login of '{user}' and what he read are in the log", seen)
    return Observation(Outcome.FAIL, f"'{user}' logged in and read, and the log does not tell it", seen)


def _self(session: psycopg.Connection[Any]) -> tuple[str, str]:
    row = session.execute(_SELF).fetchone()
    return (row[0], row[1]) if row else ("", "")


def _who(line: LogLine) -> tuple[str, str, str] | None:
    return None if line.doubtful else (line.user, line.host, line.application)


def _waited(server_log: Path, offset: int, text: str) -> list[LogLine]:
    try:
        wait_until(
            lambda: bool(audit_log.find(server_log, offset=offset, contains=text)),
            within_s=_WITHIN_S,
            what="the log to tell it",
            every_s=0.05,
        )
    except GaveUp:
        return []
    return audit_log.find(server_log, offset=offset, contains=text)
