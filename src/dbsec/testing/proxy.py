"""A network that misbehaves on demand: a TCP proxy on loopback that forwards, delays, stalls, cuts or refuses TLS."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Coroutine
from contextlib import suppress
from enum import Enum, auto
from threading import Thread
from types import TracebackType
from typing import Any, TypeVar

from dbsec.tls.wire import GSSENC_REQUEST, SSL_REQUEST

T = TypeVar("T")
_CHUNK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds: close sends RST


class _Mode(Enum):
    FORWARD = auto()
    BLACK_HOLE = auto()
    CUT = auto()


class Proxy:
    """Listens on a free loopback port (``port``) and passes bytes to ``host:upstream`` as its present mode says.

    A context manager; the modes are switched from any thread while it runs, and hold for sessions that are open and
    for new ones. A call returns when the mode is in force.
    """

    def __init__(self, upstream: int, *, host: str = "127.0.0.1") -> None:
        self._upstream = (host, upstream)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name=f"proxy-{upstream}", daemon=True)
        self._mode = _Mode.FORWARD
        self._pause_s = 0.0
        self._offers_tls = True
        self._flows = asyncio.Event()
        self._sessions: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.accepted = 0

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._flows.set()
        self._server = self._do(asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_CHUNK))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def forward(self) -> None:
        """Pass everything at once; what a black hole held back is delivered, as TCP does after an outage."""
        self._do(self._switch(_Mode.FORWARD, 0.0, offers_tls=True))

    def delay(self, seconds: float) -> None:
        """Hold every chunk (at most 64 KiB, each way) for this long before it is passed on."""
        self._do(self._switch(_Mode.FORWARD, seconds, offers_tls=True))

    def black_hole(self) -> None:
        """Pass nothing and close nothing: each side waits, as behind a firewall that drops; new ones too."""
        self._do(self._switch(_Mode.BLACK_HOLE, 0.0, offers_tls=True))

    def cut(self) -> None:
        """Reset every session (RST to both sides), and each new one as soon as it connects."""
        self._do(self._switch(_Mode.CUT, 0.0, offers_tls=True))

    def refuse_tls(self) -> None:
        """Answer N to SSLRequest on new sessions and pass the rest on in clear: the attack on ``sslmode=prefer``."""
        self._do(self._switch(_Mode.FORWARD, 0.0, offers_tls=False))

    def _do(self, act: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(act, self._loop).result(timeout=10)

    async def _switch(self, mode: _Mode, pause_s: float, *, offers_tls: bool) -> None:
        self._mode, self._pause_s, self._offers_tls = mode, pause_s, offers_tls
        if mode is _Mode.BLACK_HOLE:
            self._flows.clear()
        else:
            self._flows.set()
        if mode is _Mode.CUT:
            for writer in list(self._writers):
                _reset(writer)
            await asyncio.sleep(0)  # a transport closes its socket on the loop's next turn

    async def _close(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            _reset(writer)
        for task in list(self._sessions):
            task.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._sessions.add(task)
            task.add_done_callback(self._sessions.discard)
        self.accepted += 1
        self._writers.add(writer)
        try:
            await self._session(reader, writer)
        except* (OSError, EOFError):
            pass  # a peer that is gone ends its session, and nothing else
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode is _Mode.CUT:
            _reset(writer)
            return
        await self._flows.wait()
        first = b"" if self._offers_tls else await self._refused(reader, writer)
        up_reader, up_writer = await asyncio.open_connection(*self._upstream, limit=_CHUNK)
        self._writers.add(up_writer)
        try:
            up_writer.write(first)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, up_writer))
                both.create_task(self._pump(up_reader, writer))
        finally:
            self._writers.discard(up_writer)
            up_writer.close()

    async def _refused(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Answer N to every request for encryption; returns the first bytes that are something else."""
        while (first := await reader.readexactly(len(SSL_REQUEST))) in (SSL_REQUEST, GSSENC_REQUEST):
            writer.write(b"N")
        return first

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK):
            await asyncio.sleep(self._pause_s)
            await self._flows.wait()
            writer.write(chunk)
            await writer.drain()
        await self._flows.wait()
        with suppress(OSError):
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
