"""Free loopback ports for servers, told apart so that two labs at once do not meet."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

from dbsec.errors import LabError

LOOPBACK = "127.0.0.1"
_FIRST = 10_240
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free(count: int) -> list[int]:
    """Return ports on which nothing listens now, below those that the kernel gives to outgoing connections.

    One of the kernel's own may be taken by any client between now and the server's start. Ports are chosen at random
    and held together while they are, so none comes twice. Errors: ``LabError`` where there are not enough.
    """
    rng = random.SystemRandom()
    with ExitStack() as held:
        ports: list[int] = []
        for port in rng.sample(range(_FIRST, _last()), 50 * count):
            listener = held.enter_context(socket.socket())
            with suppress(OSError):
                listener.bind((LOOPBACK, port))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise LabError(f"no {count} free ports between {_FIRST} and {_last()}", hint="ss -ltn")


def taken(port: int) -> bool:
    """Tell whether a server already listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _last() -> int:
    try:
        first_ephemeral = int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first_ephemeral = 32_768
    return first_ephemeral if first_ephemeral > _FIRST + 2_000 else 55_000
