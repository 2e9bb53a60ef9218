"""Sessions on a pool that can be replaced while requests run: new ones take the new pool, old ones end on the old."""

from __future__ import annotations

import contextlib
import logging
import select
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app import pooler
from dbsec.crypto import Envelope
from dbsec.crypto.orm import attach
from dbsec.errors import DbsecError
from dbsec.pg import Conninfo, connect

LOG = logging.getLogger("app.database")
BORROW_S = 3.0
_VERIFY_S = 5


class PooledConnection(psycopg.Connection[TupleRow]):
    """A connection that SQLAlchemy borrows again and again."""

    def add_notice_handler(self, callback: Callable[[psycopg.errors.Diagnostic], None]) -> None:
        """Add it once: SQLAlchemy adds its own on every borrowing, and the list would grow for as long as we live."""
        with contextlib.suppress(ValueError):
            self.remove_notice_handler(callback)
        super().add_notice_handler(callback)

    def close(self) -> None:
        """Give it back, also when the server has ended it.

        psycopg's own close() leaves a closed connection alone, and the pool would be one short for as long as it lives.
        """
        if self.closed and (pool := getattr(self, "_pool", None)) is not None:
            pool.putconn(self)
            self._pool = None
        else:
            super().close()


class Generation:
    """One pool with the engine that borrows from it. The counts are guarded by the database's lock."""

    def __init__(self, number: int, conninfo: Conninfo, *, max_size: int, envelope: Envelope | None = None) -> None:
        self.number = number
        self.waiting = 0
        self.in_use = 0
        self.closed = False
        self.pool = ConnectionPool(
            conninfo.text(),
            connection_class=PooledConnection,
            configure=pooler.configure,
            min_size=min(2, max_size),
            max_size=max_size,
            timeout=BORROW_S,
            # short, because the pool doubles its pauses: once it has given up, the next request makes it try again
            reconnect_timeout=2,
            name=f"generation-{number}",
            num_workers=2,
            close_returns=True,
            open=False,
        )
        self.engine: Engine = create_engine(
            "postgresql+psycopg://",
            creator=self._borrow,
            poolclass=NullPool,
            hide_parameters=True,
            use_native_hstore=False,
        )
        if envelope is not None:
            attach(self.engine, envelope)

    def verify(self) -> None:
        """Open the pool and run a query through pool and engine; on an error close it again."""
        try:
            self.pool.open(wait=True, timeout=_VERIFY_S)
            with self.engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except BaseException:
            self.pool.close()
            raise

    def _borrow(self) -> PooledConnection:
        # A server that ended our sessions (a restart, an administrator) must cost no request: the pool's own check=
        # sleeps for a second after the second dead connection, and asks the server each time.
        while True:
            connection = self.pool.getconn()
            if _alive(connection):
                return connection
            connection.close()


def _alive(connection: PooledConnection) -> bool:
    """Tell whether an idle connection can be used; the server is asked only if it has sent something unasked for."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if not poll.poll(0):
        return True
    try:
        ConnectionPool.check_connection(connection)
    except psycopg.Error:
        return False
    return True


class Database:
    """What the service knows of its database: a session, and that the way to it can change.

    ``read_conninfo`` is asked on every (re)connect; errors of ``reconnect`` are told by ``reconnect_state``.
    """

    def __init__(
        self, read_conninfo: Callable[[], Conninfo], *, max_size: int, envelope: Envelope | None = None
    ) -> None:
        self._read_conninfo = read_conninfo
        self._envelope = envelope
        self._max_size = max_size
        self._changed = threading.Condition()
        self._draining: list[Generation] = []
        self._current = self._generation(1, read_conninfo())
        self.reconnect_state = "none"
        self.reconnect_attempts = 0

    def open(self) -> None:
        """Connect; a server that is away is only logged, for the pool goes on trying and requests say 503."""
        try:
            connect(self._read_conninfo()).close()
        except DbsecError as exc:
            LOG.error("starting without a database: %s", exc.message)
        self._current.pool.open()

    def close(self) -> None:
        """Close every pool; requests have ended by now."""
        for generation in (*self._draining, self._current):
            generation.pool.close()

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Borrow a connection and run one transaction on it: commit at the end, roll back on an exception."""
        with self._borrowed() as connection, Session(connection) as session, session.begin():
            yield session

    def reconnect(self) -> None:
        """Resolve the DSN again and move to a new pool; where that does not work, stay and say why."""
        self.reconnect_state = "running"
        state = "failed: see the log"
        try:
            conninfo = self._read_conninfo()
            connect(conninfo, timeout_s=_VERIFY_S).close()
            candidate = self._generation(self._current.number + 1, conninfo)
            candidate.verify()
            self._switch(candidate)
            state = "ok"
        except (DbsecError, psycopg.Error, DBAPIError) as exc:
            state = f"failed: {_reason(exc)}"
            LOG.error("the old connections stay: %s", _reason(exc))
        finally:
            self.reconnect_state = state
            self.reconnect_attempts += 1

    def _generation(self, number: int, conninfo: Conninfo) -> Generation:
        return Generation(number, conninfo, max_size=self._max_size, envelope=self._envelope)

    def _switch(self, candidate: Generation) -> None:
        with self._changed:
            old, self._current = self._current, candidate
            self._draining.append(old)
            # Whoever chose the old pool gets its connection: closing it earlier would fail those that wait for one.
            self._changed.wait_for(lambda: not old.waiting)
        # Closes the idle connections; one in use is closed when its request gives it back.
        old.pool.close()
        with self._changed:
            old.closed = True
        self._forget_drained()
        LOG.info("generation %d serves, %d connections of the old one are in use", candidate.number, self.draining)

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[Any]:
        with self._changed:
            generation = self._current
            generation.waiting += 1
        try:
            connection = generation.engine.connect()
        except BaseException:
            self._count(generation, in_use=0)
            raise
        self._count(generation, in_use=1)
        try:
            with connection:
                yield connection
        finally:
            with self._changed:
                generation.in_use -= 1
            self._forget_drained()

    def _count(self, generation: Generation, *, in_use: int) -> None:
        with self._changed:
            generation.waiting -= 1
            generation.in_use += in_use
            self._changed.notify_all()

    def _forget_drained(self) -> None:
        with self._changed:
            self._draining = [g for g in self._draining if g.in_use or not g.closed]

    @property
    def generation(self) -> int:
        """Return the number of the pool that serves new requests: 1 at the start, one more for each switch."""
        return self._current.number

    @property
    def draining(self) -> int:
        """Return how many connections of earlier generations are still open."""
        with self._changed:
            return sum(g.in_use if g.closed else g.pool.get_stats()["pool_size"] for g in self._draining)

    def stats(self) -> dict[str, int]:
        """Return what psycopg_pool counts of the pool that serves."""
        return self._current.pool.get_stats()


def _reason(exc: Exception) -> str:
    """Say one line without SQL. dbsec's and libpq's messages hold no password."""
    if isinstance(exc, DBAPIError):
        exc = exc.orig if isinstance(exc.orig, Exception) else exc
    text_ = str(exc).strip()
    return text_.splitlines()[0] if text_ else type(exc).__name__
