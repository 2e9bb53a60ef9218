"""Takes from a restored copy the passwords of its original: what leaks from a clone must open nothing elsewhere."""

from __future__ import annotations

import secrets
from collections.abc import Collection

import psycopg
from psycopg import sql

from dbsec.errors import UsageError

COPY = "restored-"  # what the cluster_name of a copy begins with, unless another was told
_ROLES = """
SELECT rolname FROM pg_authid WHERE rolpassword IS NOT NULL AND NOT rolname = ANY (%s) ORDER BY rolname
"""


def scramble_passwords(session: psycopg.Connection[tuple[object, ...]], *, keep: Collection[str] = ()) -> list[str]:
    """Give every role but ``keep`` a random password that nobody knows, and return their names.

    Neither the password nor what it is checked by is logged. ``session`` is a superuser's on a copy that is promoted:
    roles lie in WAL as in files, so it cannot be done before. Locks: as of ALTER ROLE; one transaction.
    Errors: those of ``roles_with_passwords``.
    """
    with session.transaction():
        roles = roles_with_passwords(session, keep=keep)
        session.execute("SET LOCAL log_statement = 'none'")
        session.execute("SET LOCAL log_min_error_statement = 'panic'")
        session.execute("SET LOCAL log_min_duration_statement = -1")
        for role in roles:
            hashed = session.pgconn.encrypt_password(secrets.token_bytes(32).hex().encode(), role.encode())
            told = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(hashed.decode()))
            session.execute(told)
    return roles


def roles_with_passwords(session: psycopg.Connection[tuple[object, ...]], *, keep: Collection[str] = ()) -> list[str]:
    """Name the roles of a copy that have a password, but for ``keep``.

    Errors: ``UsageError`` on a server that does not say by its ``cluster_name`` that it is a copy.
    """
    name = str((session.execute("SHOW cluster_name").fetchone() or ("",))[0])
    if not name.startswith(COPY):
        raise UsageError(
            f"the server's cluster_name is '{name}': it does not say that it is a copy", hint=f"'{COPY}…' is one"
        )
    return [str(role) for (role,) in session.execute(_ROLES, [list(keep)]).fetchall()]
