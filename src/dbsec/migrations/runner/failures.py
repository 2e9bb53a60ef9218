"""What the runner's errors say: which statement, which SQLSTATE, what to do next, and never what a row holds."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from dbsec.errors import ApplyError, ConnectError, GaveUp
from dbsec.migrations.runner.blockers import Blocker
from dbsec.pg import quoting

# Messages of these classes name objects and settings; those of the others (22: data, P0: RAISE) may quote a row.
_QUOTES_NO_ROW = ("0A", "23", "25", "2B", "2D", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "DB")
_HINTS = {
    "53200": "raise max_locks_per_transaction and restart the server, or name fewer tables or partitions at a time",
    "57014": "the time that it may take: SET statement_timeout before it in the file, or long_s in [migrations.runner]",
    "42501": "run it as the owner of the table: SET ROLE in the file, or another login",
    "23505": "find the rows: SELECT the key, count(*) … GROUP BY 1 HAVING count(*) > 1",
    "23514": "find the rows: SELECT … WHERE NOT (the condition of the constraint)",
    "23503": "find the rows: SELECT … LEFT JOIN the referenced table … WHERE its key IS NULL",
    "23502": "find the rows: SELECT … WHERE the column IS NULL",
    "25001": "outside BEGIN … COMMIT, in a file that no tool wraps in a transaction",
}
ALONE = "cannot run inside a transaction block"
_NOBODY = "nobody held it when we looked: short transactions, one after the other"
_READ_THE_LOG = "its message may quote a row and is not shown: see the server's log"
_WRITTEN_BY = "a function wrote its message, which may quote a row and is not shown: see the server's log"


class LockNotTaken(GaveUp):
    """The lock was not to be had in time; ``blockers`` are those who hold it."""

    def __init__(self, message: str, *, blockers: Sequence[Blocker] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.blockers = tuple(blockers)


class StatementFailed(ApplyError):
    """PostgreSQL refused a statement, and nothing of it is left; ``place`` is file:line."""

    def __init__(self, message: str, *, sqlstate: str, place: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.sqlstate = sqlstate
        self.place = place


class BlockingRefused(ApplyError):
    """The statement would block the service for as long as it works, and nobody allowed that."""


class ConnectionLost(ConnectError):
    """The session ended in the middle; ``applied`` is False, or None where nobody can tell."""

    def __init__(self, message: str, *, applied: bool | None, sqlstate: str | None = None, hint: str = "") -> None:
        super().__init__(message, sqlstate=sqlstate, hint=hint)
        self.applied = applied


def failed(exc: psycopg.Error, place: str, *, hint: str = "") -> StatementFailed:
    """Tell a server's error without DETAIL and CONTEXT, and without the message where it may quote a row."""
    state = exc.sqlstate or "none"
    if quoting.by_function(exc):
        return StatementFailed(f"'{place}': {state}", sqlstate=state, place=place, hint=hint or _WRITTEN_BY)
    safe = state[:2] in _QUOTES_NO_ROW
    said = (exc.diag.message_primary or "") if safe else type(exc).__name__
    own = exc.diag.message_hint if state.startswith("DB") else None
    told = hint or own or _HINTS.get(state) or ("" if safe else _READ_THE_LOG)
    return StatementFailed(f"'{place}': {said} ({state}){_about(exc, said)}", sqlstate=state, place=place, hint=told)


def _about(exc: psycopg.Error, said: str) -> str:
    """Name the objects that the message does not."""
    diag = exc.diag
    pairs = (("table", diag.table_name), ("column", diag.column_name), ("constraint", diag.constraint_name))
    about = ", ".join(f"{what} '{name}'" for what, name in pairs if name and f'"{name}"' not in said)
    return f": {about}" if about else ""


def lost(exc: psycopg.Error, place: str, *, applied: bool | None) -> ConnectionLost:
    """Tell that the session ended: what is known of the statement that it was at."""
    known = "nothing of it was applied" if applied is False else "nobody knows whether it was applied"
    why = f" ({exc.sqlstate})" if exc.sqlstate else ""
    return ConnectionLost(
        f"the connection was lost at '{place}'{why}: {known}",
        applied=applied,
        sqlstate=exc.sqlstate,
        hint="dbsec migrate resume",
    )


def not_taken(what: str, waited_s: float, blockers: Sequence[Blocker]) -> LockNotTaken:
    """Tell that a lock was not to be had, who holds it, and what ends that."""
    who = "; ".join(str(one) for one in blockers[:5]) or _NOBODY
    more = f"; and {len(blockers) - 5} more" if len(blockers) > 5 else ""
    hint = next((one.end_it for one in blockers if one.end_it), "run it again when the table is less busy")
    return LockNotTaken(f"{what} was not to be had in {waited_s:.0f} s: {who}{more}", blockers=blockers, hint=hint)
