"""Single acts on login roles: a password that no log sees, and the end of an old superuser login."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import errors
from psycopg.sql import SQL, Identifier, Literal

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ApplyError, UsageError
from dbsec.retry import retry, wait_until
from dbsec.roles import scram
from dbsec.secret import Secret

# The verifier is no password, but it is enough to try passwords on without asking the server.
_QUIET: LiteralString = """
SELECT pg_catalog.set_config(name, value, true)
  FROM (VALUES ('log_statement', 'none'), ('log_duration', 'off'), ('log_min_duration_statement', '-1'),
               ('log_min_duration_sample', '-1'), ('log_transaction_sample_rate', '0'),
               ('log_min_error_statement', 'panic'), ('log_statement_stats', 'off')) AS quiet (name, value)
 WHERE pg_catalog.current_setting('is_superuser') = 'on'
"""
_PROOF: LiteralString = "BEGIN RAISE LOG 'dbsec: the password of role % was set', {}; END"
_SHUT: LiteralString = (
    "ALTER ROLE {} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD NULL"
)
_END: LiteralString = """
SELECT coalesce(count(pg_catalog.pg_terminate_backend(pid)), 0) FROM pg_catalog.pg_stat_activity
 WHERE usename = %s AND pid <> pg_catalog.pg_backend_pid()
"""
_LEFT: LiteralString = "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE usename = %s"
_OWNED: LiteralString = """
SELECT count(*) FROM pg_catalog.pg_shdepend d JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid
 WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND d.deptype = 'o' AND r.rolname = %s
"""
_WHO: LiteralString = """
SELECT oid = 10, rolname = session_user,
       EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolsuper AND rolcanlogin AND rolname <> r.rolname)
  FROM pg_catalog.pg_roles r WHERE rolname = %s
"""


@dataclass(frozen=True, slots=True)
class Retired:
    """What the end of a login took with it. ``still_owned`` counts its objects in other databases."""

    role: str
    sessions_ended: int
    still_owned: int


def set_password(
    connection: psycopg.Connection[Any], role: str, password: Secret, *, iterations: int = scram.ITERATIONS
) -> None:
    """Give a role a password: only a SCRAM-SHA-256 verifier leaves this process.

    As superuser the statement stays out of the server's log too, and a line that names the role is logged instead.
    Errors: ``ApplyError``, which repeats neither password nor verifier.
    """
    stored = scram.verifier(password, iterations=iterations)
    try:
        with connection.transaction():
            connection.execute(_QUIET)
            connection.execute(SQL("ALTER ROLE {} PASSWORD {}").format(Identifier(role), Literal(stored)))
            connection.execute(SQL("DO {}").format(Literal(SQL(_PROOF).format(Literal(role)).as_string())))
    except psycopg.Error as exc:
        said = exc.diag.message_primary or type(exc).__name__
        # the error itself may quote the statement, and with it the verifier
        raise ApplyError(f"the password of '{role}' was not set: {said}") from None


def retire(
    connection: psycopg.Connection[Any], role: str, *, heir: str, within_s: float = 30.0, clock: Clock = SYSTEM
) -> Retired:
    """End a login for good: no LOGIN, no SUPERUSER, no password, no member, no object here, and no session.

    What it owns in this database goes to ``heir``. Needs superuser. Locks: ACCESS EXCLUSIVE on tables that it still
    owns, waited for 50 ms at a time. Errors: ``UsageError`` for a role that must stay (the bootstrap superuser, our
    own, the last superuser); ``ApplyError``; ``GaveUp``.
    """
    _refuse_lockout(connection, role)

    def shut() -> None:
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '50ms'")
            connection.execute(SQL(_SHUT).format(Identifier(role)))
            _leave_groups(connection, role)
            connection.execute(SQL("REASSIGN OWNED BY {} TO {}").format(Identifier(role), Identifier(heir)))

    busy = (errors.LockNotAvailable, errors.DeadlockDetected)
    try:
        retry(shut, on=busy, within_s=within_s, what=f"shutting '{role}'", clock=clock)
    except psycopg.Error as exc:
        raise ApplyError(f"'{role}' was not retired: {str(exc).splitlines()[0]}") from exc
    ended = _number(connection, _END, role)
    wait_until(
        lambda: _number(connection, _LEFT, role) == 0,
        within_s=within_s,
        what=f"the sessions of '{role}' to end",
        clock=clock,
    )
    return Retired(role, ended, _number(connection, _OWNED, role))


def _refuse_lockout(connection: psycopg.Connection[Any], role: str) -> None:
    row = connection.execute(_WHO, [role]).fetchone()
    if row is None:
        raise UsageError(f"there is no role '{role}'")
    bootstrap, own, another = row
    if bootstrap:
        raise UsageError(f"'{role}' is the bootstrap superuser, which every server keeps")
    if own:
        raise UsageError(f"'{role}' is who we are logged in as", hint="retire it as another superuser")
    if not another:
        raise UsageError(f"'{role}' is the last superuser that can log in")


def _leave_groups(connection: psycopg.Connection[Any], role: str) -> None:
    groups = connection.execute(
        "SELECT DISTINCT g.rolname FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles g ON g.oid = a.roleid"
        " JOIN pg_catalog.pg_roles m ON m.oid = a.member WHERE m.rolname = %s",
        [role],
    ).fetchall()
    for (group,) in groups:
        connection.execute(SQL("REVOKE {} FROM {} CASCADE").format(Identifier(group), Identifier(role)))


def _number(connection: psycopg.Connection[Any], query: LiteralString, role: str) -> int:
    row = connection.execute(query, [role]).fetchone()
    return int(row[0]) if row else 0
