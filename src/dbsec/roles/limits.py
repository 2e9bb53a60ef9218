"""What bounds the service: rights on tables of tomorrow, the time of a statement, the number of connections."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import errors
from psycopg.sql import SQL, Identifier

from dbsec.errors import ConnectError
from dbsec.evidence import Observation, Outcome
from dbsec.pg import Conninfo, connect
from dbsec.roles import audit_log
from dbsec.roles.accounts import set_password
from dbsec.secret import Secret

# What the reference model gives the service on a table that the owner makes later.
FUTURE_RIGHTS = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})
# Above this a bound on a web service's statement is none.
LONGEST_STATEMENT_MS = 60_000
_SIBLING_LIMIT = 2
_LOWERED_MS = 200

_HELD: LiteralString = """
SELECT coalesce(array_agg(p ORDER BY p) FILTER (WHERE has_table_privilege(%(table)s, p)), '{}')
  FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']
              || CASE WHEN current_setting('server_version_num')::int >= 170000 THEN ARRAY['MAINTAIN'] END) p
"""
_BOUNDS: LiteralString = """
SELECT name, setting::int, source FROM pg_catalog.pg_settings
 WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout')
"""
_LIMIT: LiteralString = """
SELECT rolconnlimit, rolsuper,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
  FROM pg_catalog.pg_roles WHERE rolname = session_user
"""
_GROUPS: LiteralString = """
SELECT g.rolname FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles g ON g.oid = a.roleid
  JOIN pg_catalog.pg_roles m ON m.oid = a.member WHERE m.rolname = %s ORDER BY 1
"""


def future_tables(service: Conninfo, migrator: Conninfo, admin: Conninfo) -> Observation:
    """Make a table in app as the migrator and one in public as superuser, and see what the service may do with them."""
    name = f"dbsec_drill_{secrets.token_hex(4)}"
    with _tables(admin, name):
        with connect(migrator, application_name="dbsec drill") as session:
            session.execute(SQL("CREATE TABLE app.{} (id int)").format(Identifier(name)))
        with connect(admin, application_name="dbsec drill") as session:
            session.execute(SQL("CREATE TABLE public.{} (id int)").format(Identifier(name)))
        with connect(service, application_name="dbsec drill") as session:
            held = {schema: _held(session, schema, name) for schema in ("app", "public")}
            truncated = _answer(session, SQL("TRUNCATE app.{}").format(Identifier(name)))
            read = _answer(session, SQL("SELECT FROM public.{}").format(Identifier(name)))
    seen: dict[str, Any] = {"in_app": sorted(held["app"]), "in_public": sorted(held["public"])}
    seen |= {"truncate_in_app": truncated, "select_in_public": read}
    beyond = (held["app"] - FUTURE_RIGHTS) | held["public"]
    if beyond:
        return Observation(
            Outcome.FAIL, f"'{service.user}' has on new tables, unasked, {', '.join(sorted(beyond))}", seen
        )
    if held["app"] != FUTURE_RIGHTS:
        missing = ", ".join(sorted(FUTURE_RIGHTS - held["app"]))
        return Observation(Outcome.FAIL, f"'{service.user}' lacks {missing} on a new table", seen)
    if truncated == read == errors.InsufficientPrivilege.sqlstate:
        return Observation(Outcome.PASS, f"'{service.user}' reads and writes rows of a new table, and no more", seen)
    return Observation(Outcome.ERROR, "the catalog and the server's answers do not agree", seen)


@contextlib.contextmanager
def _tables(admin: Conninfo, name: str) -> Iterator[None]:
    try:
        yield
    finally:
        with connect(admin, application_name="dbsec drill") as session:
            session.execute(SQL("DROP TABLE IF EXISTS app.{0}, public.{0}").format(Identifier(name)))


def _held(session: psycopg.Connection[Any], schema: str, name: str) -> set[str]:
    row = session.execute(_HELD, {"table": f"{schema}.{name}"}).fetchone()
    return set(row[0]) if row else set()


def _answer(session: psycopg.Connection[Any], statement: Any) -> str:
    try:
        with session.transaction(force_rollback=True):
            session.execute(statement)
    except psycopg.Error as exc:
        return exc.sqlstate or ""
    return "00000"


def runaway(service: Conninfo) -> Observation:
    """Read the bounds that count in a session of the service, and see one end a statement.

    The session lowers its own bound to 200 ms, so that nobody waits: what ends the statement is the same timer. A
    session may raise it as well: it stops accidents, not an attacker.
    """
    with connect(service, application_name="dbsec drill") as session:
        bounds = {name: (value, source) for name, value, source in session.execute(_BOUNDS)}
        limit_ms, source = bounds["statement_timeout"]
        idle_ms, _ = bounds["idle_in_transaction_session_timeout"]
        lowered_ms = min(limit_ms, _LOWERED_MS)
        began = time.monotonic()
        ended_by = _sleep(session, lowered_ms)
        seconds = round(time.monotonic() - began, 3)
    seen = {"statement_timeout_ms": limit_ms, "set_by": source, "idle_in_transaction_ms": idle_ms}
    seen |= {"lowered_to_ms": lowered_ms, "ended_by": ended_by, "after_s": seconds}
    if not 0 < limit_ms <= LONGEST_STATEMENT_MS or ended_by == "00000":
        return Observation(Outcome.FAIL, f"nothing ends a statement of '{service.user}'", seen)
    if not idle_ms:
        return Observation(Outcome.FAIL, f"nothing ends a forgotten transaction of '{service.user}'", seen)
    if ended_by == errors.QueryCanceled.sqlstate:
        said = f"'{service.user}' has {limit_ms} ms for a statement; lowered to {lowered_ms} ms, it ended one by 57014"
        return Observation(Outcome.PASS, said, seen)
    return Observation(Outcome.ERROR, f"the statement ended by {ended_by}, not by 57014", seen)


def _sleep(session: psycopg.Connection[Any], lowered_ms: int) -> str:
    """Sleep well beyond the bound; without one, only as long as a bound of 200 ms would have allowed, and half more."""
    try:
        with session.transaction(force_rollback=True):
            session.execute("SELECT pg_catalog.set_config('statement_timeout', %s, true)", [str(lowered_ms)])
            session.execute("SELECT pg_catalog.pg_sleep(%s)", [5.0 if lowered_ms else 0.3])
    except psycopg.Error as exc:
        return exc.sqlstate or ""
    return "00000"


def connections(service: Conninfo, admin: Conninfo, server_log: Path) -> Observation:
    """Read the limit of the service's role, and see the server refuse one too many.

    It is a sibling that is refused, with the same groups and a limit of 2: filling up the service's own would stop it.
    """
    with connect(service, application_name="dbsec drill") as session:
        row = session.execute(_LIMIT).fetchone()
    limit, superuser, room = row or (-1, True, 0)
    seen: dict[str, Any] = {"limit": limit, "superuser": superuser, "server_has": room}
    if superuser or limit < 0:
        why = "is a superuser, whom no limit binds" if superuser else "has no connection limit"
        return Observation(Outcome.FAIL, f"'{service.user}' {why}", seen)
    if limit >= room:
        return Observation(Outcome.FAIL, f"'{service.user}' may open {limit} connections, the server has {room}", seen)
    offset = server_log.stat().st_size
    with _sibling(service, admin) as login, ExitStack() as held:
        for _ in range(_SIBLING_LIMIT):
            held.enter_context(connect(login, application_name="dbsec drill"))
        try:
            held.enter_context(connect(login, application_name="dbsec drill"))
        except ConnectError as exc:
            said = exc.message
        else:
            return Observation(Outcome.FAIL, "the server let one too many connection in", seen)
    # libpq tells no SQLSTATE of a refused login; the server's log does
    logged = audit_log.find(server_log, offset=offset, user=login.user, contains="too many connections")
    seen |= {"refused_with": said, "sqlstate": logged[0].sqlstate if logged else None}
    if f'too many connections for role "{login.user}"' not in said:
        return Observation(Outcome.ERROR, "refused, but not for the number of connections", seen)
    said = f"'{service.user}' has {limit} connections; a sibling with {_SIBLING_LIMIT} is refused one more"
    return Observation(Outcome.PASS, said, seen)


@contextlib.contextmanager
def _sibling(service: Conninfo, admin: Conninfo) -> Iterator[Conninfo]:
    name, password = f"dbsec_drill_{secrets.token_hex(4)}", Secret(secrets.token_urlsafe(24))
    with connect(admin, application_name="dbsec drill") as session:
        groups = [Identifier(row[0]) for row in session.execute(_GROUPS, [service.user])]
        create = SQL("CREATE ROLE {} LOGIN CONNECTION LIMIT {}").format(Identifier(name), _SIBLING_LIMIT)
        session.execute(SQL("{} IN ROLE {}").format(create, SQL(", ").join(groups)) if groups else create)
        try:
            set_password(session, name, password)
            yield service.but(user=name, password=password)
        finally:
            session.execute(SQL("DROP ROLE {}").format(Identifier(name)))
