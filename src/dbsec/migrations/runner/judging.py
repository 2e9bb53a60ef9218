"""What stands in the way of a run, asked for by ``up`` and by ``plan`` alike."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import psycopg

from dbsec.migrations.runner import backfilling, checks, releases
from dbsec.migrations.runner.files import FileKind, Migration
from dbsec.migrations.runner.gate import Gate
from dbsec.migrations.runner.ledger import State
from dbsec.migrations.runner.obstacle import Block, Obstacle
from dbsec.migrations.runner.releases import Seen
from dbsec.migrations.runner.standing import Standing
from dbsec.migrations.runner.target import Target
from dbsec.migrations.script import Phase


def of_folder(now: Standing, *, out_of_order: bool) -> list[Obstacle]:
    """List what does not fit together; a file that is gone hinders nobody, for what it did is done."""
    misfits = [one for one in now.misfits(out_of_order=out_of_order) if one.block is not Block.DELETED]
    return [*misfits, *_ways_back(now.interrupted)]


def of_contract(
    target: Target,
    connection: psycopg.Connection[Any],
    now: Standing,
    contract: Migration,
    seen: Seen | None = None,
    *,
    thorough: bool = True,
) -> list[Obstacle]:
    """Judge the backfills and the clients before a contract; on a canary only the backfills.

    ``seen``: a look that was just taken; else one is taken now and recorded. ``thorough``: the rows of the backfills
    are counted once more.
    """
    found: list[Obstacle] = []
    since = None
    if target.gates:
        seen = seen or look(target, connection)
        gate = Gate(target.settings, target.release or target.settings.release, contract.number)
        found = gate.obstacles(seen)
        since = max((one.last_seen for one in seen.sightings if gate.old(one.name)), default=None)
    return [*_of_backfills(target, connection, now, contract, since, thorough=thorough), *found]


def let_through(now: Standing, migration: Migration) -> bool:
    """Tell whether a migration has no gate: it is no contract, or one that passed it and was interrupted."""
    return migration.phase is not Phase.CONTRACT or any(one.number == migration.number for one in now.interrupted)


def look(target: Target, connection: psycopg.Connection[Any]) -> Seen:
    """Look at the clients, and record it. Needs schema dbsec."""
    return releases.observe(connection, target.others, gap=timedelta(seconds=target.settings.sample_gap_s))


def _of_backfills(
    target: Target,
    connection: psycopg.Connection[Any],
    now: Standing,
    contract: Migration,
    since: datetime | None,
    *,
    thorough: bool,
) -> list[Obstacle]:
    found: list[Obstacle] = []
    for one in now.series(contract):
        if one.kind is FileKind.BACKFILL:
            settled = now.settled(one, contract)
            seen, again = (None, False) if settled else (since, thorough)
            found += filter(None, [backfilling.unverified(connection, one, seen, thorough=again)])
        elif one.check is None:
            message = f"'{one.path.name}' fills rows, and no check says whether all of them are"
            hint = f"write {one.label}.check.sql"
            found.append(Obstacle(Block.NOT_VERIFIED, message, hint, one.number, unknown=True, forcible=True))
        else:
            found += checks.obstacles(connection, one, timeout_s=target.settings.check_timeout_s)
    return found


def _ways_back(interrupted: Iterable[Any]) -> list[Obstacle]:
    """A way back that broke off must be ended before anything goes forward."""
    return [
        Obstacle(Block.INTERRUPTED, f"the way back of '{one.label}' broke off", "dbsec migrate resume", one.number)
        for one in interrupted
        if one.state is State.REVERTING
    ]
