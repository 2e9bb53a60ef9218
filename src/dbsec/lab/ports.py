"""Free loopback ports, told apart so that two labs at once do not meet."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from dbsec.errors import LabError

LOOPBACK = "127.0.0.1"


def free(count: int) -> list[int]:
    """Return ports on which nothing listens now, below 55,000 (SeaweedFS adds 10,000 for what it is not told).

    They are held together while they are chosen, so none comes twice; another program may still take one before its
    server does, and that server's start then fails with its own message.
    """
    with ExitStack() as held:
        ports: list[int] = []
        for _ in range(50 * count):
            listener = held.enter_context(socket.socket())
            listener.bind((LOOPBACK, 0))
            port = listener.getsockname()[1]
            if 1024 < port < 55_000:
                ports.append(port)
            if len(ports) == count:
                return ports
    raise LabError(f"the system gave no {count} free ports below 55000")


def taken(port: int) -> bool:
    """Tell whether a server already listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0
