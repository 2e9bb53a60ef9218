"""How much disk is free where a database lies: told by whoever runs us, or looked at where the server is this machine.

PostgreSQL has no SQL for it. Where neither way is open, nobody knows, and that is what is said.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from dbsec.migrations.runner.obstacle import Block, Obstacle
from dbsec.migrations.stats import amount

FACTOR = 1.5
SMALL = 100 << 20  # what needs less than this is run on a disk that nobody could look at

_LOCATIONS: LiteralString = """
SELECT spcname, pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace WHERE spcname <> 'pg_global'
"""


@dataclass(frozen=True, slots=True)
class Free:
    """Free bytes of one file system, and the tablespaces ("pg_wal" is one of them) that lie on it."""

    bytes: int
    places: tuple[str, ...]


def free(connection: psycopg.Connection[Any], given: int | None) -> list[Free] | None:
    """Tell the free disk by file system; None where it cannot be known. ``given`` counts for all of them."""
    if given is not None:
        places = [row[0] for row in connection.execute(_LOCATIONS)]
        return [Free(given, (*places, "pg_wal"))]
    data = _data_directory(connection)
    if data is None or not _is_here(connection, data):
        return None
    return _measured(connection, data)


def obstacles(found: list[Free] | None, disk: Mapping[str, int], wal: int) -> list[Obstacle]:
    """Compare the need, by tablespace and for WAL, with what is free."""
    need = {**disk, "pg_wal": wal}
    if found is None:
        if sum(need.values()) < SMALL:
            return []
        message = f"{amount(sum(need.values()))} are needed, and how much is free cannot be seen from here"
        hint = "df on the server, then --free-disk BYTES (as 20GB)"
        return [Obstacle(Block.DISK, message, hint, unknown=True, forcible=True)]
    short = []
    for one in found:
        here = sum(need.get(place, 0) for place in one.places)
        if here * FACTOR > one.bytes:
            message = f"{amount(one.bytes)} are free for {', '.join(one.places)}"
            message = f"{message}, and {FACTOR:g} times {amount(here)} are asked for"
            short.append(Obstacle(Block.DISK, message, "make room, or take a smaller step", forcible=True))
    return short


def _data_directory(connection: psycopg.Connection[Any]) -> Path | None:
    try:
        row = connection.execute("SELECT pg_catalog.current_setting('data_directory')").fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return None
    return Path(row[0]) if row and row[0] else None


def _is_here(connection: psycopg.Connection[Any], data: Path) -> bool:
    """A path of that name may be another server's, where a port is forwarded: its pid file must name our port, and a
    postmaster that started when ours did."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    row = connection.execute(
        "SELECT pg_catalog.floor(extract(epoch FROM pg_catalog.pg_postmaster_start_time()))::bigint, "
        "pg_catalog.current_setting('port')"
    ).fetchone()
    return row is not None and len(lines) > 3 and abs(int(lines[2]) - row[0]) <= 2 and lines[3] == row[1]


def _measured(connection: psycopg.Connection[Any], data: Path) -> list[Free] | None:
    locations = {name: Path(place) if place else data for name, place in connection.execute(_LOCATIONS)}
    locations["pg_wal"] = data / "pg_wal"
    by_device: dict[int, list[str]] = {}
    try:
        for name, place in locations.items():
            by_device.setdefault(place.stat().st_dev, []).append(name)
        return [
            Free(state.f_bavail * state.f_frsize, tuple(names))
            for names in by_device.values()
            for state in [os.statvfs(locations[names[0]])]
        ]
    except OSError:
        return None
