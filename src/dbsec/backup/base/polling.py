"""Waits for libpq by poll: what blocks within it holds the interpreter's lock, and hears no Ctrl-C."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Final

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGcancelConn, PGconn

from dbsec.clock import SYSTEM

CANCEL_S: Final = 2.0


def cancel(connection: PGconn) -> None:
    """Ask the server to cancel what a session runs; one that does not answer is not waited for."""
    try:
        request = connection.cancel_conn()  # speaks TLS as the session does
    except psycopg.NotSupportedError:
        connection.get_cancel().cancel()
        return
    request.start()
    complete(request.poll, request, CANCEL_S)


def complete(step: Callable[[], int], connection: PGconn | PGcancelConn, within_s: float) -> bool:
    """Let libpq take the steps of a connection; False where it fails, or is not done in time."""
    ends = SYSTEM.monotonic() + within_s
    wanted = select.POLLOUT  # as libpq has it before the first step
    while (left_s := ends - SYSTEM.monotonic()) > 0 and ready(connection.socket, wanted, left_s):
        status = step()
        if status in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
            return status == pq.PollingStatus.OK
        wanted = select.POLLIN if status == pq.PollingStatus.READING else select.POLLOUT
    return False


def ready(socket: int, events: int, within_s: float | None = None) -> int:
    """Wait for one of these events; 0 where none comes in time."""
    waiting = select.poll()
    waiting.register(socket, events)
    found = waiting.poll(None if within_s is None else within_s * 1000)
    return found[0][1] if found else 0
