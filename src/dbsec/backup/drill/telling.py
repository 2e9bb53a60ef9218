"""Makes an observation, and a proof, of what a rehearsal has measured or raised."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from dbsec.backup.drill.clone import Cloned, NotRestored
from dbsec.backup.drill.objectives import Arrival, judge
from dbsec.backup.drill.witness import Witness
from dbsec.backup.errors import (
    ArchiveHole,
    ContentConflict,
    IncompleteBackup,
    KeyUnavailable,
    NotRecoverable,
    Tampered,
)
from dbsec.backup.restoring.programs import NotVerified
from dbsec.clock import rfc3339
from dbsec.config import Objectives
from dbsec.errors import DbsecError, reason
from dbsec.evidence import Observation, Outcome
from dbsec.log import Redactor

# What a restore refuses because of what lies in the repository; all else says nothing about the backup.
_FAILS: Final = (Tampered, ArchiveHole, NotRecoverable, IncompleteBackup, ContentConflict, NotRestored, NotVerified)
_MOST_TOLD: Final = 100


@dataclass(frozen=True, slots=True)
class Measured:
    """What a rehearsal found."""

    cloned: Cloned
    witness: Witness
    arrival: Arrival
    facts: dict[str, Any] = field(default_factory=dict)


def judged(measured: Measured, objectives: Objectives) -> Observation:
    """Judge what was measured; the summary says why where it is not PASS."""
    cloned, witness, arrival = measured.cloned, measured.witness, measured.arrival
    verdict = judge(cloned, arrival, objectives)
    summary = "; ".join(verdict.reasons) or (
        f"{len(witness.tables)} tables with {witness.rows:,} rows as the witness has them, RPO {arrival.rpo_s:.1f} s,"
        f" RTO {cloned.rto_s:.1f} s"
    )
    facts = {
        "backup": cloned.origin.backup,
        "target": cloned.origin.target,
        "system": str(witness.system),
        "database": witness.database,
        "server_version": witness.server_version,
        "tables": len(witness.tables),
        "rows": cloned.comparison.rows,
        "rows_expected": witness.rows,
        "rpo_s": round(arrival.rpo_s, 3),
        "rpo_forced": arrival.forced,
        "rto_s": round(cloned.rto_s, 3),
        "objective_rpo_s": objectives.rpo_s,
        "objective_rto_s": objectives.rto_s,
        "restore_s": round(cloned.restore_s, 3),
        "replay_s": round(cloned.replay_s, 3),
        "proof_s": round(cloned.proof_s, 3),
        "lock_held_ms": round(witness.held.total_seconds() * 1000, 1),
        "lock_attempts": witness.attempts,
        "replayed_to": rfc3339(cloned.replayed_to) if cloned.replayed_to else None,
        "smoke": cloned.smoked,
        "unverified": cloned.origin.unverified,
        "unlogged": list(witness.unlogged)[:_MOST_TOLD],
        "differences": list(cloned.comparison.differences[:_MOST_TOLD]),
        "corruption": list(cloned.corruption),
        "notes": list(cloned.origin.notes),
        **measured.facts,
    }
    return Observation(verdict.outcome, Redactor().redact(summary), facts)


def refused(exc: DbsecError | psycopg.Error | OSError) -> Observation:
    """Say why a rehearsal did not end, without the text of a row: a server may quote one in DETAIL."""
    redact = Redactor().redact
    if isinstance(exc, psycopg.Error):
        said = f"PostgreSQL refused: {exc.sqlstate}: {exc.diag.message_primary or type(exc).__name__}"
        return Observation(Outcome.ERROR, redact(said), {"error": type(exc).__name__, "sqlstate": exc.sqlstate})
    if isinstance(exc, OSError):
        return Observation(Outcome.ERROR, redact(reason(exc)), {"error": type(exc).__name__})
    no = isinstance(exc, _FAILS) or (isinstance(exc, KeyUnavailable) and exc.refused)
    facts = {"error": type(exc).__name__, "hint": redact(exc.hint)}
    return Observation(Outcome.FAIL if no else Outcome.ERROR, redact(exc.message), facts)


def proof_of(scenario: str, seen: Observation, measured: Measured | None, objectives: Objectives) -> dict[str, Any]:
    """Return what ``proof.put_proof`` keeps, but for the time."""
    cloned = measured.cloned if measured else None
    return {
        "outcome": str(seen.outcome),
        "why": "" if seen.outcome is Outcome.PASS else seen.summary[:1000],
        "scenario": str(scenario),
        "rpo_s": measured.arrival.rpo_s if measured else None,
        "rto_s": cloned.rto_s if cloned else None,
        "objective_rpo_s": objectives.rpo_s,
        "objective_rto_s": objectives.rto_s,
        "backup": cloned.origin.backup if cloned else "",
        "target": cloned.origin.target if cloned else "",
        "tables": len(measured.witness.tables) if measured else 0,
        "rows": cloned.comparison.rows if cloned else 0,
        "bytes": cloned.origin.plain_bytes if cloned else 0,
    }
