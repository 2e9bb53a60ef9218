"""Install, upgrade and remove the schema: all of a plan in one transaction, one session at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, LiteralString

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from dbsec.errors import ApplyError, GaveUp, UsageError, reason
from dbsec.pg import advisory
from dbsec.pg.own.planning import Act, Plan, Verb, decide
from dbsec.pg.own.state import OWNER, SCHEMA

LOCK = advisory.key("own")
_WITHIN_S = 30
# names in our statements must mean the catalog; and a guard on DDL wants both timeouts set
_PINNED: LiteralString = """
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
       pg_catalog.set_config('lock_timeout', %(lock)s, true), pg_catalog.set_config('statement_timeout', '60s', true)
"""
_SELF: LiteralString = """
SELECT session_user, rolsuper, rolcreaterole,
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
       pg_catalog.current_setting('server_version_num')::int / 10000, pg_catalog.current_setting('role')
  FROM pg_catalog.pg_roles WHERE rolname = current_user
"""
_ACT_AS: LiteralString = "SELECT pg_catalog.set_config('role', %s, true)"
_BECOMES_16: LiteralString = """
SELECT pg_catalog.pg_has_role(session_user, oid, 'SET') FROM pg_catalog.pg_roles WHERE rolname = 'dbsec_owner'
"""
_BECOMES_15: LiteralString = """
SELECT pg_catalog.pg_has_role(session_user, oid, 'MEMBER') FROM pg_catalog.pg_roles WHERE rolname = 'dbsec_owner'
"""


def install(connection: psycopg.Connection[Any], *, users: Sequence[str] = ()) -> Plan:
    """Bring the schema to the version of this dbsec; running it again changes nothing. Returns what was done.

    ``users`` are roles that get USAGE and may read and write dbsec's tables. Locks: an advisory lock, waited for up to
    30 s; each statement waits 2 s at most. Errors: ``ApplyError`` with the statement that a superuser must run first
    where our role may not; ``UsageError`` in a transaction; ``NewerFormat``; ``GaveUp``.
    """
    return _apply(connection, Verb.INSTALL, users)


def upgrade(connection: psycopg.Connection[Any]) -> Plan:
    """Run the steps that an older dbsec did not know; users keep their rights and get them on what is new.

    Errors and locks: those of ``install``; ``ApplyError`` where it is not installed.
    """
    return _apply(connection, Verb.UPGRADE, ())


def uninstall(connection: psycopg.Connection[Any], *, force: bool = False) -> Plan:
    """Drop the schema with all that jobs have recorded; role ``dbsec_owner`` stays, other databases may use it.

    Errors and locks: those of ``install``; ``ApplyError`` where a job runs and ``force`` is not given, or where
    an object of others needs one of ours.
    """
    return _apply(connection, Verb.UNINSTALL, (), force=force)


def _apply(connection: psycopg.Connection[Any], verb: Verb, users: Sequence[str], *, force: bool = False) -> Plan:
    if connection.info.transaction_status is not TransactionStatus.IDLE:
        raise UsageError(f"the schema is not changed in a transaction of others ({verb})", hint="commit it first")
    with connection.transaction():
        _alone(connection)
        what = decide(connection, verb, users=users)
        if what.running and not force:
            who = ", ".join(map(str, what.running))
            raise ApplyError(f"a job uses schema '{SCHEMA}': {who}", hint="let it end, or: --force")
        if what:
            _check_rights(connection, what)
            _run(connection, what)
    return what


def _alone(connection: psycopg.Connection[Any]) -> None:
    connection.execute(_PINNED, {"lock": f"{_WITHIN_S}s"})
    try:
        connection.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", [LOCK])
    except errors.LockNotAvailable as exc:
        raise GaveUp(f"another session has been changing schema '{SCHEMA}' for {_WITHIN_S} s") from exc
    connection.execute(_PINNED, {"lock": "2s"})


def _run(connection: psycopg.Connection[Any], what: Plan) -> None:
    acts = list(what.acts)
    if acts[0].statement.startswith("CREATE ROLE"):
        _create_role(connection, acts.pop(0))
    with _member(connection) as own_role:
        for act in acts:
            connection.execute(_ACT_AS, [OWNER if act.as_owner else own_role])
            _execute(connection, act.what, act.statement)
        connection.execute(_ACT_AS, [own_role])


def _create_role(connection: psycopg.Connection[Any], act: Act) -> None:
    """Create the role, unless a session in another database has, which our lock does not keep out."""
    with suppress(errors.UniqueViolation, errors.DuplicateObject), connection.transaction():
        connection.execute(act.statement.encode())


def _execute(connection: psycopg.Connection[Any], what: str, statement: str) -> None:
    try:
        connection.execute(statement.encode())
    except psycopg.Error as exc:
        lines = [reason(exc), *(exc.diag.message_detail or "").splitlines()[:1]]
        raise ApplyError(f"{what}: {'; '.join(lines)}; nothing was changed", hint="psql, as the same user") from exc


@contextmanager
def _member(connection: psycopg.Connection[Any]) -> Iterator[str]:
    """Be a member of ``dbsec_owner``, by right of CREATEROLE where we are none, and end it; yields our role."""
    user, is_super, _, _, major, role = connection.execute(_SELF).fetchone() or ("", False, False, False, 0, "none")
    lent = not (is_super or _becomes(connection, major))
    if lent:
        option = " WITH SET TRUE, INHERIT FALSE" if major >= 16 else ""
        _execute(connection, f"'{user}' in {OWNER}", f"GRANT {OWNER} TO SESSION_USER{option}")
    yield role
    if lent:
        _execute(connection, f"'{user}' out of {OWNER}", f"REVOKE {OWNER} FROM SESSION_USER")


def _becomes(connection: psycopg.Connection[Any], major: int) -> bool:
    row = connection.execute(_BECOMES_16 if major >= 16 else _BECOMES_15).fetchone()
    return bool(row and row[0])


def _check_rights(connection: psycopg.Connection[Any], what: Plan) -> None:
    """Find out before the first statement what only a superuser may do here. Errors: ``ApplyError``."""
    row = connection.execute(_SELF).fetchone()
    if row is None or row[1]:
        return
    user, _, may_create_roles, may_create, major, _ = row
    statements = [act.statement for act in what.acts if not act.as_owner]
    needed = []
    if any(s.startswith("CREATE ROLE") for s in statements) and not may_create_roles:
        needed.append(statements[0])
    if any(s.startswith("CREATE SCHEMA") for s in statements) and not may_create:
        needed.append(statements[-1])
    if not may_create_roles and not _becomes(connection, major):
        needed.append(f'GRANT {OWNER} TO "{user}"')
    if needed:
        raise ApplyError(
            f"role '{user}' may not {what.verb} schema '{SCHEMA}'", hint=f"as a superuser: {'; '.join(needed)}"
        )
