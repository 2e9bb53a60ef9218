"""The one place that opens replication connections: commands, their rows, and what they stream, over libpq itself."""

from __future__ import annotations

import re
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn, PGresult

from dbsec import __version__
from dbsec.backup.base import polling
from dbsec.errors import ConnectError
from dbsec.pg import Conninfo
from dbsec.pg.lsn import Lsn

_PREFIX: Final = re.compile(r"^connection to server (?:on|at) .*? failed: ")
_FAILED: Final = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE, pq.ExecStatus.PIPELINE_ABORTED)
_COPIES: Final = (pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH)
_HINT: Final = "the login needs REPLICATION, and pg_hba.conf a line for the database 'replication'"
# a limit on statements of the role is none for a backup; a dead peer is found by keepalives, not by waiting for ever
_OPTIONS: Final = "-c statement_timeout=0 -c lock_timeout=0 -c idle_session_timeout=0"
_KEEPALIVES: Final = {"keepalives_idle": "20", "keepalives_interval": "10", "keepalives_count": "3"}

Row = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server says of itself: whose WAL it has, on which timeline, flushed up to where."""

    system: int
    timeline: int
    flushed: Lsn


class Replication:
    """A session of the physical replication protocol; one thread uses it at a time.

    Waits end at Ctrl-C. Errors of each method: ``ConnectError`` with SQLSTATE and the server's words.
    """

    def __init__(self, connection: PGconn, whom: str) -> None:
        self._pg = connection
        self._whom = whom
        self._poll = select.poll()
        self._poll.register(connection.socket, select.POLLIN)
        connection.nonblocking = 1
        self.warnings: list[str] = []
        connection.notice_handler = self._noticed

    @property
    def major(self) -> int:
        return self._pg.server_version // 10000

    def identify(self) -> Identity:
        """Ask whose server this is (IDENTIFY_SYSTEM)."""
        (system, timeline, flushed, *_), *_ = self.rows("IDENTIFY_SYSTEM")
        return Identity(int(system or 0), int(timeline or 0), Lsn.parse(flushed or ""))

    def show(self, setting: str) -> str:
        """Read a setting, as SHOW prints it."""
        return self.rows(f"SHOW {setting}")[0][0] or ""

    def rows(self, command: str) -> list[Row]:
        """Run a command to its end and return its rows."""
        self.send(command)
        found: list[Row] = []
        while (result := self.result()) is not None:
            found += rows_of(result)
        return found

    def send(self, command: str) -> None:
        """Begin a command; ``result`` gives what it answers."""
        try:
            self._pg.send_query(command.encode())
            self._flush()
        except psycopg.Error as exc:
            raise self._lost(exc) from exc

    def result(self, *, within_s: float | None = None) -> PGresult | None:
        """Wait for the next result of a command; None after its last. Errors: also where none comes in time."""
        while self._pg.is_busy():
            self._read(within_s)
        result = self._pg.get_result()
        if result is None or result.status not in _FAILED:
            return result
        refused = self._refused(result)
        with suppress(ConnectError):  # to the end of the command, so that the session can run another
            while self.result(within_s=within_s) is not None:
                pass
        raise refused

    def message(self, within_s: float | None = None) -> memoryview | None:
        """Return the next message of a COPY; an empty one where none comes in time, None at the end of the stream."""
        while True:
            try:
                size, data = self._pg.get_copy_data(1)
            except psycopg.Error as exc:
                raise self._lost(exc) from exc
            if size > 0:
                return data
            if size < 0:
                return None
            if not self._ready(within_s):
                return memoryview(b"")
            self._consume()

    def messages(self, *, silence_s: float) -> Iterator[memoryview]:
        """Yield the messages of a COPY to its end. Errors: also where the server says nothing for ``silence_s``."""
        while (message := self.message(silence_s)) is not None:
            if not message:
                raise self._silent(silence_s)
            yield message

    def put(self, message: bytes | memoryview) -> None:
        """Send a message of a COPY."""
        try:
            while not self._pg.put_copy_data(bytes(message)):
                self._flush()
            self._flush()
        except psycopg.Error as exc:
            raise self._lost(exc) from exc

    def end_copy(self) -> None:
        """End our side of a COPY; ``result`` gives what the server says to it."""
        try:
            while not self._pg.put_copy_end():
                self._flush()
            self._flush()
        except psycopg.Error as exc:
            raise self._lost(exc) from exc

    def upload(self, command: str, data: Iterator[bytes]) -> None:
        """Run a command that copies bytes to the server."""
        self.send(command)
        self.result()
        for part in data:
            with memoryview(part) as whole:
                for at in range(0, len(part), 1 << 16):
                    self.put(whole[at : at + (1 << 16)])
        self.end_copy()
        while self.result() is not None:
            pass

    def close(self) -> None:
        """End the session; a command that runs is cancelled: a server in a checkpoint would not see that we left."""
        if self._pg.status == pq.ConnStatus.OK and self._pg.transaction_status == pq.TransactionStatus.ACTIVE:
            with suppress(psycopg.Error):
                polling.cancel(self._pg)
        self._pg.finish()

    def _flush(self) -> None:
        while self._pg.flush():
            if polling.ready(self._pg.socket, select.POLLIN | select.POLLOUT) & select.POLLIN:
                self._pg.consume_input()  # a server that waits for us to read takes nothing

    def _read(self, within_s: float | None) -> None:
        if not self._ready(within_s):
            raise self._silent(within_s or 0)
        self._consume()

    def _ready(self, within_s: float | None) -> bool:
        return bool(self._poll.poll(None if within_s is None else within_s * 1000))

    def _consume(self) -> None:
        try:
            self._pg.consume_input()
        except psycopg.Error as exc:
            raise self._lost(exc) from exc

    def _noticed(self, result: PGresult) -> None:
        self.warnings.append(_field(result, pq.DiagnosticField.MESSAGE_PRIMARY))

    def _refused(self, result: PGresult) -> ConnectError:
        sqlstate = _field(result, pq.DiagnosticField.SQLSTATE)
        if not sqlstate:
            return self._lost(result.error_message.decode(errors="replace"))
        said = [_field(result, one) for one in (pq.DiagnosticField.MESSAGE_PRIMARY, pq.DiagnosticField.MESSAGE_DETAIL)]
        hint = _field(result, pq.DiagnosticField.MESSAGE_HINT)
        return ConnectError(f"{self._whom}: {'; '.join(filter(None, said))}", sqlstate=sqlstate, hint=hint)

    def _lost(self, why: object) -> ConnectError:
        said = " ".join((str(why).strip() or "the connection was closed").split())
        return ConnectError(f"the connection to {self._whom} was lost: {said}", hint="see the server's log")

    def _silent(self, within_s: float) -> ConnectError:
        return ConnectError(f"{self._whom} has said nothing for {within_s:g} s", hint="is the network up?")


@contextmanager
def open_replication(
    server: Conninfo, *, timeout_s: int = 5, application_name: str = "", **settings: str
) -> Iterator[Replication]:
    """Open a session; ``settings`` are libpq parameters over those of the server's.

    Errors: ``ConnectError`` with libpq's text, never with the password.
    """
    name = application_name or server.params.get("application_name") or f"dbsec@{__version__}"
    told = {
        **server.params,
        **_KEEPALIVES,
        "application_name": name,
        "connect_timeout": str(timeout_s),
        "client_encoding": "UTF8",
        "options": f"{server.params.get('options', '')} {_OPTIONS}".strip(),
        "dbname": "replication",
        "replication": "true",
        **settings,
    }
    full = Conninfo(told, server.password)
    connection = pq.PGconn.connect_start(full.text().encode())
    whom = f"'{server.user}' at {server.host}:{server.port}"
    try:
        if connection.status == pq.ConnStatus.BAD or not polling.complete(
            connection.connect_poll, connection, timeout_s
        ):
            said = connection.get_error_message().strip().splitlines()
            why = _PREFIX.sub("", said[0]) if said else f"no answer within {timeout_s} s"
            raise ConnectError(f"cannot replicate as {whom}: {why}", hint=_HINT)
        session = Replication(connection, f"{server.host}:{server.port}")
    except BaseException:
        connection.finish()
        raise
    try:
        yield session
    finally:
        session.close()


def rows_of(result: PGresult) -> list[Row]:
    """Return the rows of a result as text."""
    return [
        tuple(None if (value := result.get_value(row, column)) is None else value.decode() for column in range(width))
        for width in (result.nfields,)
        for row in range(result.ntuples)
    ]


def literal(text: str) -> str:
    """Quote a text for a replication command, whose grammar knows only doubled quotes. Errors: ``ValueError``."""
    if "\0" in text:
        raise ValueError("a text for the server holds no zero byte")
    return "'" + text.replace("'", "''") + "'"


def _field(result: PGresult, which: pq.DiagnosticField) -> str:
    return (result.error_field(which) or b"").decode(errors="replace")
