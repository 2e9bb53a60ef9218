"""Giving an engine its envelope: from then on its statements are encrypted, decrypted and judged."""

from __future__ import annotations

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

from dbsec.crypto.envelope import Envelope
from dbsec.crypto.orm.attached import ENGINES, Attached
from dbsec.crypto.orm.guards import guarded
from dbsec.crypto.orm.writing import before_execute
from dbsec.errors import UsageError


def attach(engine: Engine | AsyncEngine, envelope: Envelope) -> None:
    """Let an engine and its sessions encrypt and decrypt; call it once, right after the engine was made.

    A session is of one tenant: what it has loaded it hands out again, whatever the scope is then. The role needs USAGE
    on the sequences of ids that values are bound to. An engine without an envelope raises ``Unbound`` wherever an
    encrypted column is read or written. Errors: ``UsageError`` for an engine that has another envelope, or that speaks
    no PostgreSQL.
    """
    real = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    dialect = real.dialect
    if dialect.name != "postgresql":
        raise UsageError(f"encrypted columns are of PostgreSQL, not of {dialect.name}")
    known = ENGINES.get(dialect)
    if known is not None:
        if known.envelope is not envelope:
            raise UsageError("this engine has an envelope already", hint="one engine, one envelope")
        return
    dialect.statement_compiler = guarded(dialect.statement_compiler)
    ENGINES[dialect] = Attached(envelope)
    event.listen(real, "before_execute", before_execute, retval=True)
