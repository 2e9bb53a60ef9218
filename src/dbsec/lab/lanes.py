"""The connections of the load: an httpx client for each, to whichever release a request goes."""

from __future__ import annotations

import ssl
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

# Below the 5 s after which uvicorn closes an idle connection: a request sent at that moment would count as failed.
_KEEPALIVE_S = 2.0


class Lanes:
    """An httpx client for each connection, the last used first.

    One client with a pool looks at every idle connection on every request: after a stall of seconds, when hundreds are
    open, the load would be too busy to send on time.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._tls = ssl.create_default_context()
        self._idle: defaultdict[str, list[httpx.AsyncClient]] = defaultdict(list)

    @asynccontextmanager
    async def one(self, base_url: str) -> AsyncIterator[httpx.AsyncClient]:
        """Lend a client with a warm connection, or a new one."""
        idle = self._idle[base_url]
        client = idle.pop() if idle else self._open(base_url)
        try:
            yield client
        finally:
            idle.append(client)

    async def aclose(self) -> None:
        """Close the connections that nobody uses."""
        for client in (client for idle in self._idle.values() for client in idle):
            await client.aclose()

    def _open(self, base_url: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=base_url,
            timeout=self._timeout_s,
            limits=httpx.Limits(max_connections=1, keepalive_expiry=_KEEPALIVE_S),
            verify=self._tls,
            trust_env=False,
        )
