"""A rehearsal on a staging clone: the same files, the same checks, before production sees any of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, LiteralString

import psycopg

from dbsec.migrations.names import Name
from dbsec.migrations.runner import ledger
from dbsec.migrations.runner.ledger import State
from dbsec.migrations.runner.obstacle import Block, Obstacle
from dbsec.migrations.runner.target import Asked, Connect, Target
from dbsec.migrations.runner.up import Outcome, up
from dbsec.migrations.schema.catalog import from_catalog
from dbsec.migrations.schema.model import Schema

_SHOWN = 5  # differences in a message
_TAKE: LiteralString = "SELECT pg_catalog.pg_advisory_xact_lock(%s)"
_FREE: LiteralString = "SELECT pg_catalog.pg_try_advisory_xact_lock(%s)"
_STANDBY: LiteralString = "SELECT pg_catalog.pg_is_in_recovery()"


def rehearse(target: Target, connect: Connect, asked: Asked) -> Outcome:
    """Run on the canary what ``up`` would run on the target, with the checks; the target is only read.

    ``connect`` opens sessions on the canary. What it returns has the obstacles of the canary; none means that the
    release may go on. Errors: those of ``up``, from the canary.
    """
    outcome = Outcome(obstacles=list(unfit(target.connect, connect)))
    if outcome.obstacles:
        return outcome
    there = replace(target, connect=connect, others={}, gates=False, observer=None)
    return up(there, replace(asked, force="", free_bytes=None))


def unfit(production: Connect, canary: Connect) -> Iterator[Obstacle]:
    """Yield why a database cannot stand in for production."""
    with production() as real, canary() as other:
        if _is_same(real, other):
            yield _obstacle("the canary is production itself", "give --canary the DSN of a clone")
            return
        if _says(other, _STANDBY):
            yield _obstacle("the canary is a standby, on which nothing can be run", "restore a clone, or promote it")
            return
        if real.info.server_version // 10000 != other.info.server_version // 10000:
            versions = f"{other.info.server_version // 10000}, production {real.info.server_version // 10000}"
            yield _obstacle(f"the canary is PostgreSQL {versions}", "clone to the same major version")
        if found := differences(from_catalog(real), from_catalog(other)):
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            message = f"the canary's schema is not production's: {', '.join(found[:_SHOWN])}{more}"
            yield _obstacle(message, "make the clone anew")
        if _applied(real) != _applied(other):
            message = "the canary has other migrations applied than production"
            yield _obstacle(message, "make the clone anew, or bring it to where production is: dbsec migrate status")


def differences(one: Schema, other: Schema) -> list[str]:
    """Name what two schemas do not have alike; dbsec's own is left out."""
    found = []
    pairs: list[tuple[str, Mapping[Name, Any], Mapping[Name, Any]]] = [
        ("table", one.tables, other.tables),
        ("view", one.views, other.views),
        ("domain", one.domains, other.domains),
        ("type", one.types, other.types),
        ("function", one.functions, other.functions),
    ]
    for what, first, second in pairs:
        for name in sorted({*first, *second}, key=str):
            if name.schema != "dbsec" and first.get(name) != second.get(name):
                lacks = "" if name in first and name in second else " (only here)" if name in second else " (missing)"
                found.append(f"{what} {name}{lacks}")
    return found


def _is_same(real: psycopg.Connection[Any], other: psycopg.Connection[Any]) -> bool:
    """Tell whether two sessions are of one database.

    System identifier and oid are a physical clone's too; a lock that one session holds is felt in its database alone.
    """
    key = secrets.randbits(62)
    with real.transaction():
        real.execute(_TAKE, [key])
        with other.transaction():
            return not _says(other, _FREE, key)


def _says(connection: psycopg.Connection[Any], query: LiteralString, *values: Any) -> bool:
    row = connection.execute(query, values).fetchone()
    return bool(row and row[0])


def _applied(connection: psycopg.Connection[Any]) -> dict[int, str]:
    return {n: entry.checksum for n, entry in ledger.read(connection).items() if entry.state is State.APPLIED}


def _obstacle(message: str, hint: str) -> Obstacle:
    return Obstacle(Block.CANARY, message, hint)
