"""Which releases of the service are connected: looked at now, remembered in ``dbsec.release_sightings``.

That nobody of the old release was there for a day is known only where somebody looked all day long. So each whole look
is a row of its own, and a window counts as observed only where no two looks in it lie further apart than allowed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, LiteralString, Protocol

import psycopg
from psycopg import errors

PRIMARY = "primary"
KEPT = timedelta(days=90)

# Walsenders and workers are no clients; what our role may not see has no backend_type.
_SESSIONS: LiteralString = """
SELECT coalesce(a.application_name, ''), pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE a.backend_type IS NULL)
  FROM pg_catalog.pg_stat_activity a
 WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
   AND coalesce(a.backend_type, 'client backend') = 'client backend'
 GROUP BY 1
"""
_PREPARED: LiteralString = """
SELECT gid, prepared, owner FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()
 ORDER BY prepared
"""
# pg_receivewal and base backups replay nothing.
_STANDBYS: LiteralString = """
SELECT pg_catalog.count(*) FILTER (WHERE replay_lsn IS NOT NULL OR state IS NULL) FROM pg_catalog.pg_stat_replication
"""
_ROLES: tuple[LiteralString, ...] = ("SET LOCAL ROLE NONE", "SET LOCAL ROLE pg_read_all_stats")
_SAMPLE: LiteralString = "INSERT INTO dbsec.release_samples (server) VALUES (%s) ON CONFLICT DO NOTHING"
_SIGHT: LiteralString = """
INSERT INTO dbsec.release_sightings AS s (server, application_name, sessions) VALUES (%s, %s, %s)
ON CONFLICT (server, application_name)
   DO UPDATE SET last_seen = pg_catalog.clock_timestamp(), sessions = excluded.sessions
"""
_FORGET: LiteralString = """
DELETE FROM dbsec.release_samples WHERE server = %s AND sampled_at < pg_catalog.clock_timestamp() - %s
"""
# The look before which the gap is too long, or which is the first, begins the unbroken row that lasts until now.
_SINCE: LiteralString = """
SELECT pg_catalog.max(at) FILTER (WHERE gap IS NULL OR gap > %(gap)s), pg_catalog.max(at), pg_catalog.clock_timestamp()
  FROM (SELECT sampled_at AS at, sampled_at - pg_catalog.lag(sampled_at) OVER (ORDER BY sampled_at) AS gap
          FROM dbsec.release_samples WHERE server = %(server)s) s
"""
_SIGHTINGS: LiteralString = """
SELECT server, application_name, first_seen, last_seen, sessions FROM dbsec.release_sightings ORDER BY server, last_seen
"""


class Reach(Protocol):
    """Opens a connection to a server."""

    def __call__(self) -> AbstractContextManager[psycopg.Connection[Any]]: ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared transaction: it holds its locks, and nobody can tell which release made it."""

    gid: str
    at: datetime
    owner: str


@dataclass(frozen=True, slots=True)
class Look:
    """The clients of one database at one moment. ``hidden``: sessions of which our role may see too little."""

    sessions: Mapping[str, int]
    hidden: int
    prepared: tuple[Prepared, ...] = ()
    standbys: int = 0
    role: str = ""


@dataclass(frozen=True, slots=True)
class Sighting:
    """When clients of one name were seen on one server; ``server`` is "primary" or the reference to another one."""

    server: str
    name: str
    first_seen: datetime
    last_seen: datetime
    sessions: int


@dataclass(frozen=True, slots=True)
class Observed:
    """Since when a server was looked at without a gap that is too long; ``since`` is None where it never was."""

    server: str
    since: datetime | None
    until: datetime | None
    now: datetime

    def covers(self, window: timedelta) -> bool:
        """Tell whether the whole window up to now was observed."""
        return self.since is not None and self.since <= self.now - window


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of the releases: the looks taken just now by server, all sightings, and since when we look.

    ``unrecorded``: why the look at the primary was not recorded; "" where it was.
    """

    looks: Mapping[str, Look]
    sightings: tuple[Sighting, ...] = ()
    observed: Mapping[str, Observed] = field(default_factory=dict)
    now: datetime | None = None
    unrecorded: str = ""


def look(connection: psycopg.Connection[Any]) -> Look:
    """Look at the sessions of the connected database; what our role may not see is counted as hidden.

    Where the current role sees too little, the login role looks, and then pg_read_all_stats where that is granted.
    Transaction: short ones, read only; the role is the same afterwards.
    """
    seen = _look(connection, None)
    for role in _ROLES:
        if not seen.hidden:
            break
        with contextlib.suppress(errors.InsufficientPrivilege):
            seen = replace(_look(connection, role), role=seen.role)
    return seen


def observe(
    connection: psycopg.Connection[Any],
    others: Mapping[str, Reach],
    *,
    gap: timedelta,
) -> Seen:
    """Look at the primary and at ``others`` (by reference), record what saw everything, and tell what is known.

    Needs schema dbsec.
    """
    looks = {PRIMARY: look(connection)}
    for reference, reach in others.items():
        with reach() as other:
            looks[reference] = look(other)
    # who may only read (a standby, a role that plans) still looks; the time is then not observed by it
    unrecorded = "sessions are hidden from our role: GRANT pg_read_all_stats" if looks[PRIMARY].hidden else ""
    try:
        with connection.transaction():
            for server, seen in looks.items():
                if not seen.hidden:
                    _record(connection, server, seen)
    except (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction) as exc:
        unrecorded = str(exc.diag.message_primary)
    sightings = tuple(Sighting(*row) for row in connection.execute(_SIGHTINGS))
    observed = {server: _observed(connection, server, gap) for server in looks}
    return Seen(looks, sightings, observed, observed[PRIMARY].now, unrecorded)


def _look(connection: psycopg.Connection[Any], act_as: LiteralString | None) -> Look:
    with connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        (role,) = connection.execute("SELECT session_user").fetchone() or ("",)
        if act_as is not None:
            connection.execute(act_as)
        rows = connection.execute(_SESSIONS).fetchall()
        prepared = tuple(Prepared(*row) for row in connection.execute(_PREPARED))
        (standbys,) = connection.execute(_STANDBYS).fetchone() or (0,)
    names = {name: count for name, count, _ in rows}
    return Look(names, sum(hidden for *_, hidden in rows), prepared, standbys, role)


def _record(connection: psycopg.Connection[Any], server: str, seen: Look) -> None:
    connection.execute(_SAMPLE, [server])
    for name, sessions in seen.sessions.items():
        connection.execute(_SIGHT, [server, name, sessions])
    connection.execute(_FORGET, [server, KEPT])


def _observed(connection: psycopg.Connection[Any], server: str, gap: timedelta) -> Observed:
    row = connection.execute(_SINCE, {"server": server, "gap": gap}).fetchone()
    assert row is not None
    since, until, now = row
    # where the last look is long ago, nothing is known of the time up to now
    return Observed(server, since if until is not None and now - until <= gap else None, until, now)
