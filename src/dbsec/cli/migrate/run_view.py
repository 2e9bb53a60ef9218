"""What the commands of the runner print, and the exit code that it means."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from dbsec.cli import exits, output
from dbsec.errors import DbsecError
from dbsec.migrations.runner import status as standing
from dbsec.migrations.runner.estimate import Cost
from dbsec.migrations.runner.obstacle import Obstacle
from dbsec.migrations.runner.planning import Plan, PlannedMigration
from dbsec.migrations.runner.releases import PRIMARY
from dbsec.migrations.runner.up import Applied, Outcome
from dbsec.migrations.stats import amount, duration


def plan(made: Plan, *, as_json: bool) -> int:
    """Print a plan."""
    if as_json:
        output.envelope("migrate plan", result=_plan_json(made), findings=[one.to_json() for one in made.findings])
    else:
        sys.stdout.write("".join(map(_planned, made.migrations)) or "nothing waits\n")
        if made.migrations:
            sys.stdout.write(_totals(made))
    return _end(made.obstacles)


def outcome(command: str, done: Outcome, *, as_json: bool, canary: bool = False) -> int:
    """Print what was run."""
    if as_json:
        output.envelope(command, result={**_outcome_json(done), "canary": canary})
    else:
        for one in done.applied:
            print(_applied(one))
        if not (done.applied or done.obstacles):
            print("nothing to do")
        for warning in done.warnings:
            print(f"{warning.where.get('file')}:{warning.where.get('line')}: {warning.code} {warning.message}")
        if done.forward is not None:
            steps = "\n".join(f"  {number}. {text}" for number, text in enumerate(done.forward.steps(), 1))
            print(f"the way forward after {done.forward.entry.label}:\n{steps}\n\n{done.forward.sql()}")
    return _end(done.obstacles, "on the canary: " if canary else "")


def status(found: standing.Status, *, as_json: bool) -> int:
    """Print how things stand."""
    if as_json:
        output.envelope("migrate status", result=_status_json(found))
        return _end(found.obstacles)
    width = max((len(row.name) for row in found.rows), default=0)
    for row in found.rows:
        when = f"{row.finished_at:%Y-%m-%d %H:%M:%S%z} by {row.run_by}" if row.finished_at else row.run_by
        print(f"{row.number:03} {row.name:{width}}  {row.phase:8}  {row.state:9}  {when}".rstrip())
    if found.runner:
        print(f"a runner is at work: {found.runner}")
    if found.seen is not None:
        for line in _clients(found):
            print(line)
    for name in found.ignored:
        print(f"'{name}' bears no number: nothing here runs it")
    return _end(found.obstacles)


def _end(obstacles: Sequence[Obstacle], prefix: str = "") -> int:
    """Say what stands in the way; a refusal beats what could not be told."""
    for one in obstacles:
        exits.say(DbsecError(f"{prefix}{one.block}: {one.message}", hint=one.hint))
    if any(not one.unknown for one in obstacles):
        return exits.FINDINGS
    return exits.COULD_NOT_TELL if obstacles else exits.CLEAN


def _planned(one: PlannedMigration) -> str:
    peak = f", at most {one.peak[1].sql} on {one.peak[0]}" if one.peak else ""
    lines = [f"{one.migration.label}: {one.migration.phase}{peak}, {_cost(one.cost)}"]
    for statement in one.statements:
        locks = ", ".join(f"{mode.sql} on {name}" for name, mode in statement.locks) or "no lock on what was there"
        lines.append(f"  line {statement.line}: {statement.kind}: {statement.what}")
        lines.append(f"      {locks}; {_cost(statement.cost)}")
    return "\n".join(lines) + "\n\n"


def _cost(cost: Cost) -> str:
    parts = [duration(cost.seconds) if cost.seconds is not None else "time not known"]
    if cost.wal or cost.disk_bytes:
        parts.append(f"{amount(cost.wal)} of WAL, {amount(cost.disk_bytes)} of disk")
    if cost.lag_s:
        parts.append(f"replicas {duration(cost.lag_s)} behind")
    return ", ".join(parts)


def _totals(made: Plan) -> str:
    need = made.cost.disk_bytes + made.needed_wal
    free = "nobody can tell how much is free" if made.free is None else _free(made)
    wal = f"of it {amount(made.needed_wal)} of WAL that is kept"
    return f"in all: {_cost(made.cost)}; {amount(need)} of disk are needed at once ({wal}); {free}\n"


def _free(made: Plan) -> str:
    return "; ".join(f"{amount(one.bytes)} free for {', '.join(one.places)}" for one in made.free or ())


def _applied(one: Applied) -> str:
    waited = sum(did.ran.waited_s for did in one.did)
    seconds = sum(did.ran.seconds for did in one.did)
    count = f"{len(one.did)} statement{'s' if len(one.did) != 1 else ''}"
    ran = f"{count}, {seconds:.2f} s, {waited:.2f} s of waiting for locks" if one.did else "done"
    return f"{one.migration.label}: {one.state}: {ran}"


def _clients(found: standing.Status) -> list[str]:
    assert found.seen is not None
    lines = []
    for server, look in found.seen.looks.items():
        there = "" if server == PRIMARY else f" ({server})"
        for name, count in sorted(look.sessions.items()):
            old = ", old" if found.gate.release and found.gate.old(name) else ""
            lines.append(f"connected{there}: {count} x '{name}'{old}")
    for sighting in found.seen.sightings:
        if sighting.name not in found.seen.looks.get(sighting.server, found.seen.looks[PRIMARY]).sessions:
            lines.append(f"last seen {sighting.last_seen:%Y-%m-%d %H:%M:%S%z}: '{sighting.name}'")
    for server, observed in found.seen.observed.items():
        since = f"{observed.since:%Y-%m-%d %H:%M:%S%z}" if observed.since else "never"
        lines.append(f"observed without a gap since: {since}" + ("" if server == PRIMARY else f" ({server})"))
    return lines


def _plan_json(made: Plan) -> dict[str, Any]:
    return {
        "migrations": [
            {
                "number": one.migration.number,
                "name": one.migration.name,
                "phase": str(one.migration.phase),
                "peak_lock": {"table": str(one.peak[0]), "mode": one.peak[1].sql} if one.peak else None,
                "statements": [statement.to_json() for statement in one.statements],
                "cost": one.cost.to_json(),
            }
            for one in made.migrations
        ],
        "cost": made.cost.to_json(),
        "needed_wal_bytes": made.needed_wal,
        "free": None if made.free is None else [{"bytes": one.bytes, "places": one.places} for one in made.free],
        "obstacles": [one.to_json() for one in made.obstacles],
    }


def _outcome_json(done: Outcome) -> dict[str, Any]:
    applied = [
        {
            "number": one.migration.number,
            "name": one.migration.name,
            "state": str(one.state),
            "statements": [
                {
                    "line": did.line,
                    "statement": did.what,
                    "class": str(did.kind),
                    "seconds": round(did.ran.seconds, 6),
                    "waited_s": round(did.ran.waited_s, 6),
                    "lock_attempts": did.ran.lock_attempts,
                    "already": did.ran.already,
                }
                for did in one.did
            ],
        }
        for one in done.applied
    ]
    return {
        "applied": applied,
        "obstacles": [one.to_json() for one in done.obstacles],
        "forced": [one.to_json() for one in done.forced],
        "warnings": [one.to_json() for one in done.warnings],
        "forward": done.forward.to_json() if done.forward else None,
    }


def _status_json(found: standing.Status) -> dict[str, Any]:
    seen = found.seen
    return {
        "migrations": [row.to_json() for row in found.rows],
        "runner": found.runner,
        "obstacles": [one.to_json() for one in found.obstacles],
        "ignored": list(found.ignored),
        "clients": []
        if seen is None
        else [
            {"server": server, "name": name, "sessions": count, "old": found.gate.old(name)}
            for server, look in seen.looks.items()
            for name, count in sorted(look.sessions.items())
        ],
        "sightings": []
        if seen is None
        else [
            {"server": one.server, "name": one.name, "first_seen": one.first_seen, "last_seen": one.last_seen}
            for one in seen.sightings
        ],
        "observed": {} if seen is None else {server: one.since for server, one in seen.observed.items()},
    }
