"""Who is connected in clear, how they are let go, and whose password is still an MD5 hash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from dbsec import retry
from dbsec.clock import SYSTEM, Clock
from dbsec.pg import facts
from dbsec.pg.facts import Session
from dbsec.progress import Progress, Silent

# The condition stands beside the act: a pid that has come back over TLS since it was read is left alone.
_TERMINATE: LiteralString = """
SELECT a.pid, pg_terminate_backend(a.pid)
  FROM pg_stat_activity a LEFT JOIN pg_stat_ssl s USING (pid)
 WHERE a.backend_type IN ('client backend', 'walsender') AND a.client_addr IS NOT NULL
   AND NOT coalesce(s.ssl, false) AND a.pid <> pg_backend_pid()
"""
_MD5_ROLES: LiteralString = "SELECT rolname FROM pg_authid WHERE rolpassword LIKE 'md5%' ORDER BY rolname"
_POLL_S = 0.1
_END_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Drained:
    """How the network sessions came to be encrypted, in sessions."""

    already_encrypted: int
    left_by_themselves: int
    terminated: int


def drain_plaintext(
    connection: psycopg.Connection[Any],
    *,
    deadline_s: float,
    clock: Clock = SYSTEM,
    progress: Progress | None = None,
) -> Drained:
    """Wait until nobody is connected in clear, then end those who stay; replication counts, Unix sockets do not.

    New sessions in clear must be refused by then. Needs a superuser, or pg_read_all_stats and pg_signal_backend (which
    may not end a superuser's session). Errors: ``GaveUp`` where a terminated session does not end.
    """
    progress = progress or Silent()
    before = [s for s in facts.sessions(connection) if s.network]
    present = seen = {s.pid for s in before if not s.encrypted}
    deadline = clock.monotonic() + deadline_s
    while present and clock.monotonic() < deadline:
        progress.count("sessions in clear have left", len(seen) - len(present), len(seen))
        clock.sleep(_POLL_S)
        present = in_clear(connection)
        seen = seen | present
    terminated = _terminate(connection, clock) if present else set()
    return Drained(sum(s.encrypted for s in before), len(seen - terminated), len(terminated))


def in_clear(connection: psycopg.Connection[Any]) -> set[int]:
    """Return the pids of network sessions without TLS, this one apart."""
    return {s.pid for s in facts.sessions(connection) if _is_in_clear(s)}


def md5_roles(connection: psycopg.Connection[Any]) -> list[str]:
    """Name the roles whose stored password is an MD5 hash. Needs a superuser: pg_authid."""
    return [str(row[0]) for row in connection.execute(_MD5_ROLES)]


def _terminate(connection: psycopg.Connection[Any], clock: Clock) -> set[int]:
    ended = {int(pid) for pid, signalled in connection.execute(_TERMINATE) if signalled}
    retry.wait_until(
        lambda: not in_clear(connection), within_s=_END_WITHIN_S, what="sessions in clear to end", clock=clock
    )
    return ended


def _is_in_clear(session: Session) -> bool:
    return session.network and not session.encrypted
