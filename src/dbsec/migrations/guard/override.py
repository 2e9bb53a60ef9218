"""An emergency: let somebody pass one guard for a while, on the record."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg

from dbsec.errors import ApplyError, UsageError, reason

_OPEN: LiteralString = """
SELECT dbsec_guard.override(%(guard)s, %(reason)s, %(lasts)s::interval, coalesce(%(role)s, session_user)::name)
"""


def override(
    connection: psycopg.Connection[Any], guard: str, reason: str, *, lasts: str = "15min", role: str | None = None
) -> int:
    """Open a guard for ``role`` (by its session_user; ours where none is named), and return the override's number.

    It is a row of dbsec_guard.overrides and a line of the server's log, as each pass by it. ``lasts``: PostgreSQL's
    interval, up to the policy's ``max_override``. Errors: ``UsageError``, ``ApplyError``.
    """
    row = _call(connection, _OPEN, {"guard": guard, "reason": reason, "lasts": lasts, "role": role})
    return int(row[0])


def end_override(connection: psycopg.Connection[Any], number: int) -> None:
    """End an override before its time. Errors: ``UsageError`` where it is not open, ``ApplyError``."""
    _call(connection, "SELECT dbsec_guard.end_override(%(number)s)", {"number": number})


def _call(connection: psycopg.Connection[Any], query: LiteralString, values: dict[str, Any]) -> tuple[Any, ...]:
    try:
        row = connection.execute(query, values).fetchone()
    except (psycopg.errors.InvalidParameterValue, psycopg.errors.InvalidDatetimeFormat) as exc:
        raise UsageError(reason(exc), hint=exc.diag.message_hint or "dbsec migrate guard override --help") from exc
    except psycopg.Error as exc:
        hint = "as whoever installed the guard: dbsec migrate guard plan --dsn ..."
        raise ApplyError(f"PostgreSQL refused: {exc.sqlstate} {reason(exc)}", hint=hint) from exc
    assert row is not None
    return tuple(row)
