"""How much one caller may send: a token bucket for each tenant, and a cap on a request's body."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import Problem
from dbsec.clock import SYSTEM, Clock

MAX_BODY_BYTES = 64 * 1024

_BURST_S = 2.0
_MOST_KEYS = 10_000


class TokenBuckets:
    """Buckets that fill with ``rate_per_s`` and hold two seconds' worth.

    Used from the event loop alone, so without a lock. The longest unused bucket is dropped above 10,000 keys: whoever
    sends invented keys cannot fill the memory.
    """

    def __init__(self, rate_per_s: float, *, clock: Clock = SYSTEM) -> None:
        self._rate = rate_per_s
        self._burst = max(1.0, rate_per_s * _BURST_S)
        self._clock = clock
        self._filled: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable) -> None:
        """Take one token. Errors: ``Problem`` 429 with Retry-After in whole seconds."""
        now = self._clock.monotonic()
        tokens, since = self._filled.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        enough = tokens >= 1
        self._filled[key] = (tokens - 1 if enough else tokens, now)
        if len(self._filled) > _MOST_KEYS:
            self._filled.popitem(last=False)
        if not enough:
            wait_s = math.ceil((1 - tokens) / self._rate)
            raise Problem(429, "rate-limited", "too many requests", headers={"Retry-After": str(max(1, wait_s))})


class BodyCap:
    """Refuses a body above ``MAX_BODY_BYTES``: at once where its length is announced, else when that much has come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        announced = dict(scope.get("headers", ())).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
            too_large = Problem(413, "body-too-large", f"a body has at most {MAX_BODY_BYTES} bytes")
            await too_large.response()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                # the one exception that FastAPI lets through while it reads a body
                raise HTTPException(413, f"a body has at most {MAX_BODY_BYTES} bytes")
            return message

        await self._app(scope, counted, send)
