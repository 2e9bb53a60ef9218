"""Alembic under the guards of the runner: two lines in ``env.py``.

::

    from alembic import context
    from dbsec.migrations.alembic import run_migrations
    run_migrations(context, engine, target_metadata=Base.metadata)

Where ``env.py`` configures Alembic itself: ``with guarded(context): ...`` around ``context.run_migrations()``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg

from dbsec.errors import ConfigError, UsageError
from dbsec.migrations.revisions.hooks import Hooks
from dbsec.migrations.revisions.options import Options
from dbsec.migrations.runner import session
from dbsec.migrations.runner.alone import alone

if TYPE_CHECKING:
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection, Engine

__all__ = ["Options", "guarded", "run_migrations"]

_DRIVER = "the guards need psycopg 3: create_engine('postgresql+psycopg://...') in env.py; the service may use another"


def run_migrations(
    context: EnvironmentContext,
    bind: Engine | Connection | None = None,
    *,
    options: Options | None = None,
    **configure: Any,
) -> None:
    """Configure Alembic and run what its command asks for, guarded; ``configure`` goes to ``context.configure``.

    Offline (``--sql``) it only lints: what psql runs later has no guard. Errors: those of ``guarded``.
    """
    if context.is_offline_mode():
        url = configure.pop("url", None) or context.config.get_main_option("sqlalchemy.url")
        chosen = {"dialect_name": "postgresql"} if bind is not None or not url else {"url": url}
        context.configure(**chosen, literal_binds=True, transaction_per_migration=True, **configure)
        with context.begin_transaction():
            context.run_migrations()
        return
    if bind is None:
        raise UsageError("run_migrations() needs an engine or a connection", hint="run_migrations(context, engine)")
    with ExitStack() as opened:
        connection = opened.enter_context(bind.connect()) if hasattr(bind, "connect") else bind
        context.configure(connection=connection, transaction_per_migration=True, **configure)
        opened.enter_context(guarded(context, options=options))
        with context.begin_transaction():
            context.run_migrations()


@contextmanager
def guarded(context: EnvironmentContext, *, options: Options | None = None) -> Iterator[None]:
    """Guard what ``context.run_migrations()`` does in the block; ``context`` is configured with a connection.

    Revisions are linted before the first one runs. Each is a transaction whose locks are taken by NOWAIT: where one is
    not to be had, all of it goes back and ``upgrade()`` is called again. CONCURRENTLY runs outside of it. What such a
    revision has committed is remembered in schema dbsec, where that is installed.
    Locks: the runner's advisory lock. Errors: ``ApplyError`` for what lint refuses, ``LockNotTaken``,
    ``BlockingRefused``, ``GaveUp`` where another upgrade does not end, ``UsageError`` for a connection in a
    transaction, ``ConfigError`` for another driver.
    """
    migration = context.get_context()
    if migration.as_sql or "destination_rev" not in migration.opts:
        yield  # offline, or a command that only looks
        return
    options = options or Options()
    raw = _raw_of(migration)
    with _own_session(raw, options), Hooks(migration, raw, options):
        yield


def _raw_of(migration: MigrationContext) -> psycopg.Connection[Any]:
    connection = migration.connection
    if connection is None or connection.in_transaction():
        hint = "with engine.connect() as connection, and connection.commit() after statements of your own"
        raise UsageError("the guards need a connection that is in no transaction", hint=hint)
    raw = connection.connection.driver_connection
    if not isinstance(raw, psycopg.Connection):
        raise ConfigError(f"the connection is of driver '{connection.dialect.driver}'", hint=_DRIVER)
    return raw


@contextmanager
def _own_session(raw: psycopg.Connection[Any], options: Options) -> Iterator[None]:
    """Hold the runner's lock, and notice soon when we are dead: the server then ends what we have begun."""
    with _autocommit(raw):
        session.require(raw, options.limits)
        with suppress(psycopg.Error):  # not on every system
            raw.execute("SET client_connection_check_interval = '2s'")
    with ExitStack() as held:
        with _autocommit(raw):
            held.enter_context(alone(raw, wait_s=options.wait_s, progress=options.progress, clock=options.clock))
        try:
            yield
        finally:
            if not raw.closed:
                raw.rollback()
                with _autocommit(raw):
                    held.close()
                    with suppress(psycopg.Error):
                        raw.execute("RESET client_connection_check_interval")


@contextmanager
def _autocommit(raw: psycopg.Connection[Any]) -> Iterator[None]:
    raw.autocommit = True
    try:
        yield
    finally:
        if not raw.closed:
            raw.autocommit = False
