"""What ``dbsec backup restore`` says before and after."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from dbsec.cli import output
from dbsec.cli.output import Format

if TYPE_CHECKING:
    from dbsec.backup.restoring import Plan, Restored


def _shown(plan: Plan) -> dict[str, Any]:
    return {
        "target": str(plan.target),
        "action": plan.target.action,
        "timeline": plan.timeline,
        "chain": [backup.id for backup in plan.chain],
        "wal_start": str(plan.wal_start),
        "wal_end": str(plan.wal_end),
        "wal_bytes": plan.wal_bytes,
        "plain_bytes": plan.plain_bytes,
        "stored_bytes": plan.stored_bytes,
        "space_bytes": plan.space_bytes,
        "keys": plan.keys,
        "estimated_s": plan.seconds,
        "notes": list(plan.notes),
    }


def tell_plan(plan: Plan, form: Format) -> None:
    """Print what would be restored."""
    if form is Format.JSON:
        output.envelope("backup restore", result={"restored": False, **_shown(plan)})
        return
    for line in _plan_lines(plan):
        print(line)
    print("nothing was written: --dry-run")


def say_plan(plan: Plan) -> None:
    """Say on stderr what is about to be restored."""
    for line in _plan_lines(plan):
        print(f"dbsec: {line}", file=sys.stderr)


def _plan_lines(plan: Plan) -> list[str]:
    chain = " + ".join(backup.id for backup in plan.chain)
    took = "unknown: nothing was restored on this host yet" if plan.seconds is None else f"{plan.seconds:.0f} s"
    return [
        f"to {plan.target}, on timeline {plan.timeline}; then the server will {plan.target.action}",
        f"from backup {chain}, which ended {plan.backup.stopped} at {plan.backup.stop_lsn}",
        f"WAL from {plan.wal_start} to {plan.wal_end}: {plan.wal_bytes:,} bytes; {plan.keys} keys opened",
        f"{plan.stored_bytes:,} bytes to read, {plan.plain_bytes:,} to write; estimated: {took}, and the replay of WAL",
        *plan.notes,
    ]


def tell(plan: Plan, done: Restored, following: list[str], form: Format) -> None:
    """Print what was restored, and the commands that come next."""
    if form is Format.JSON:
        shown = {
            "restored": True,
            **_shown(plan),
            "notes": [*plan.notes, *done.notes],
            "folder": str(done.folder),
            "seconds": round(done.seconds, 3),
            "mb_s": round(done.bytes_s / 1e6, 1),
            "verified": not done.unverified,
            "unverified": done.unverified,
            "tablespaces": {space.old: str(space.new) for space in done.spaces},
            "next": following,
        }
        output.envelope("backup restore", result=shown)
        return
    rate = f"{done.bytes_s / 1e6:.0f} MB/s"
    print(f"restored to '{done.folder}': {done.plain_bytes:,} bytes in {done.seconds:.1f} s, {rate}")
    print(
        f"pg_verifybackup was not run: {done.unverified}" if done.unverified else "pg_verifybackup: every file is right"
    )
    for line in (*done.notes, *following):
        print(f"  {line}")
