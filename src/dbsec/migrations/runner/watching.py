"""``dbsec migrate watch``: looks at the clients again and again, so that a quiet window can be known."""

from __future__ import annotations

import psycopg

from dbsec.errors import ConnectError, GaveUp
from dbsec.migrations.runner import judging, session
from dbsec.migrations.runner.gate import Gate
from dbsec.migrations.runner.ledger import NEEDS
from dbsec.migrations.runner.releases import Seen
from dbsec.migrations.runner.target import Target
from dbsec.pg import own


def watch(target: Target, *, every_s: float, for_s: float | None = None) -> Seen | None:
    """Look every ``every_s`` seconds until ``for_s`` have passed; a server that is gone is looked for again.

    A look that failed is a gap like any other. Errors: ``ApplyError`` where schema dbsec is not installed;
    ``ConnectError`` where nothing can be written (a standby); ``GaveUp`` where no look was recorded in the end.
    """
    with target.connect() as connection:
        own.require(connection, NEEDS)
        if (unwritable := session.unwritable(connection)) is not None:
            raise unwritable
    recorded = False
    end = None if for_s is None else target.clock.monotonic() + for_s
    told = seen = None
    while True:
        begun = target.clock.monotonic()
        try:
            seen = _look(target)
        except (psycopg.OperationalError, ConnectError):
            target.progress.step("the server cannot be looked at: nothing is known of this time")
        else:
            now = _words(target, seen)
            if now != told:
                target.progress.step(now)
            told = now
            recorded |= not seen.unrecorded
        if end is not None and target.clock.monotonic() + every_s > end:
            if not recorded:
                why = seen.unrecorded if seen else "the server could not be looked at"
                raise GaveUp(f"no look was recorded: {why}", hint="dbsec db install --dsn REF --user ROLE --apply")
            return seen
        target.clock.sleep(max(0.0, every_s - (target.clock.monotonic() - begun)))


def _look(target: Target) -> Seen:
    with target.connect() as connection:
        return judging.look(target, connection)


def _words(target: Target, seen: Seen) -> str:
    gate = Gate(target.settings, target.release or target.settings.release)
    names = sorted({name for look in seen.looks.values() for name in look.sessions})
    shown = [f"{name or 'unnamed'}{' (old)' if gate.release and gate.old(name) else ''}" for name in names]
    missing = f"; not recorded: {seen.unrecorded}" if seen.unrecorded else ""
    return f"connected: {', '.join(shown) or 'nobody'}{missing}"
