"""``[migrations.runner]``: how a statement waits, for how long it may run, and what it may do to others."""

from __future__ import annotations

from pydantic import Field

from dbsec.config import Section


class Limits(Section):
    """Times of the runner. What a file itself sets with SET counts too: see ``timeouts.of``.

    ``poll_ms``: between two NOWAIT turns. ``old_ms``: a transaction that is older is a blocker, and nobody is ever made
    to queue behind it. ``starving_s``: of turns that only younger ones refused, before a turn waits, for
    ``escalation_ms`` each. ``own_wait_ms``: for a lock that was not foretold. ``short_s``, ``rows_s``, ``long_s``:
    statement_timeout of what others wait for, of row writes, of all else. ``give_up_s``: of waiting, for one statement.
    ``retries``: of a deadlock, and of what runs outside a transaction. ``small_bytes``: work on smaller tables is none.
    ``session_pool``: a pooler stands between, and is known to keep one server session for each client.
    """

    poll_ms: float = Field(default=20, gt=0)
    old_ms: float = Field(default=100, gt=0)
    starving_s: float = Field(default=5, ge=0)
    escalation_ms: tuple[int, ...] = Field(default=(50, 100), min_length=1)
    own_wait_ms: int = Field(default=10, gt=0)
    short_s: float = Field(default=5, gt=0)
    rows_s: float = Field(default=60, gt=0)
    long_s: float = Field(default=4 * 3600, gt=0)
    give_up_s: float = Field(default=600, gt=0)
    retries: int = Field(default=10, ge=0)
    cancel_blockers: bool = False
    cancel_after_s: float = Field(default=5, ge=0)
    allow_blocking: bool = False
    small_bytes: int = Field(default=1 << 20, ge=0)
    session_pool: bool = False
