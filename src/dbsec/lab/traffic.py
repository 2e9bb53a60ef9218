"""What the load's process does: open loop, so a server that stalls finds the requests of that time waiting for it.

Requests are due at moments that a seeded generator chooses beforehand, whatever the server does; latency counts from
that moment, not from when there was room to send.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO
from uuid import uuid4

import httpx

from dbsec import log
from dbsec.lab.dataset import Tenant
from dbsec.lab.lanes import Lanes
from dbsec.lab.load import ROUTES, Arrivals, Op, Plan, Sample
from dbsec.lab.routes import Routes

LOG = logging.getLogger("dbsec.lab.traffic")
_FLUSH_S = 0.2
_LAST_ANSWERS_S = 3.0
_PAGE = 20


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it will be sent, and the status that it must have."""

    op: Op
    tenant: Tenant
    method: str
    path: str
    params: dict[str, str | int] | None = None
    json: dict[str, object] | None = None
    wanted: int = 200


class Script:
    """The seeded part: when requests are due and what they ask for."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._weights = [1 / rank for rank in range(1, len(plan.tenants) + 1)]
        self.cursors: dict[str, str] = {}

    def due(self) -> Iterator[float]:
        """Yield the seconds after the start at which a request is due, up to the plan's limit."""
        rate, at = self._plan.rate_per_s, 0.0
        while at < self._plan.limit_s:
            at += self._random.expovariate(rate) if self._plan.arrivals is Arrivals.POISSON else 1 / rate
            yield at

    def next_call(self) -> Call:
        """Draw what the next request asks for."""
        (tenant,) = self._random.choices(self._plan.tenants, self._weights)
        (op,) = self._random.choices(list(self._plan.mix), list(self._plan.mix.values()))
        pick = self._random.randrange(len(tenant.user_ids))
        match op:
            case Op.READ_USER:
                return Call(op, tenant, "GET", f"/v1/users/{tenant.user_ids[pick]}")
            case Op.FIND_PHONE:
                return Call(op, tenant, "GET", "/v1/users", params={"phone": tenant.phones[pick]})
            case Op.CREATE_ORDER:
                order: dict[str, object] = {"user_id": tenant.user_ids[pick], "currency": "EUR"}
                order["amount_cents"] = self._random.randrange(100, 50_000)
                return Call(op, tenant, "POST", "/v1/orders", json=order, wanted=201)
            case Op.CREATE_USER:
                return Call(op, tenant, "POST", "/v1/users", json=_new_user(), wanted=201)
            case _:
                return Call(op, tenant, "GET", "/v1/orders", params=self._page(tenant))

    def _page(self, tenant: Tenant) -> dict[str, str | int]:
        cursor = self.cursors.pop(tenant.slug, None)
        onward = self._random.random() < 0.5
        return {"limit": _PAGE, "cursor": cursor} if cursor and onward else {"limit": _PAGE}


def _new_user() -> dict[str, object]:
    # not from the seed: a second load on the same data must not meet the phones of the first
    digits = str(uuid4().int)[-9:]
    return {"name": "Load Test", "email": f"load.{digits}@example.net", "phone": f"+88{digits}"}


class Traffic:
    """Sends the script and writes a line for each request."""

    def __init__(self, plan: Plan, out: TextIO, routes: Routes) -> None:
        self._plan = plan
        self._routes = routes
        routes.refresh()
        self._out = out
        self._script = Script(plan)
        self._tokens: dict[str, str] = {}
        self._logins = {tenant.slug: asyncio.Lock() for tenant in plan.tenants}
        self._in_flight: set[asyncio.Task[None]] = set()
        self._lanes = Lanes(plan.timeout_s)
        self._began = time.monotonic()
        self._began_at = datetime.now(UTC)

    async def run(self) -> None:
        """Send until cancelled, orphaned or at the limit; then wait a little for the last answers."""
        flusher = asyncio.create_task(self._flush_often())
        parent = os.getppid()
        try:
            for due_s in self._script.due():
                due = self._began + due_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if os.getppid() != parent:
                    break  # nobody is left to read the samples or to end us
                self._send(due)
        finally:
            await self._finish()
            flusher.cancel()
            self._out.flush()

    def _send(self, due: float) -> None:
        call = self._script.next_call()
        to = self._routes.draw()
        if len(self._in_flight) >= self._plan.max_in_flight:
            self._write(call.op, to, due, due, error=f"not sent: {len(self._in_flight)} are in flight", sent=False)
            return
        task = asyncio.create_task(self._answer(call, to, due))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)

    async def _answer(self, call: Call, to: str, due: float) -> None:
        began, status, error = time.monotonic(), 0, ""
        try:
            async with asyncio.timeout(self._plan.timeout_s):
                response = await self._request(call, to)
            status = response.status_code
            error = self._complaint(call, response)
        except (TimeoutError, httpx.TimeoutException):
            error = f"no answer within {self._plan.timeout_s:g} s"
        except httpx.HTTPError as exc:
            error = type(exc).__name__
        except asyncio.CancelledError:
            error = "not answered when the load ended"
        self._write(call.op, to, due, began, status=status, error=error)

    async def _request(self, call: Call, to: str) -> httpx.Response:
        headers = {"Idempotency-Key": str(uuid4())} if call.method == "POST" else {}
        token = self._tokens.get(call.tenant.slug) or await self._log_in(call.tenant, to, stale=None)
        for attempt in (1, 2):
            headers["Authorization"] = f"Bearer {token}"
            async with self._lanes.one(to) as client:
                response = await client.request(
                    call.method, call.path, params=call.params, json=call.json, headers=headers
                )
            if response.status_code != 401 or attempt == 2:
                break
            token = await self._log_in(call.tenant, to, stale=token)
        return response

    async def _log_in(self, tenant: Tenant, to: str, *, stale: str | None) -> str:
        async with self._logins[tenant.slug]:
            if (token := self._tokens.get(tenant.slug)) and token != stale:
                return token
            began, status, error = time.monotonic(), 0, "no answer"
            try:
                body = {"tenant": tenant.slug, "api_key": tenant.api_key.reveal()}
                async with self._lanes.one(to) as client:
                    response = await client.post("/v1/login", json=body)
                status = response.status_code
                error = "" if status == 200 else f"status {status}"
                self._tokens[tenant.slug] = response.json().get("token", "") if not error else ""
            finally:
                self._write(Op.LOGIN, to, began, began, status=status, error=error)
            return self._tokens[tenant.slug]

    def _complaint(self, call: Call, response: httpx.Response) -> str:
        """Say what is wrong with an answer: another status, or not the rows that must be there."""
        if response.status_code != call.wanted:
            return f"status {response.status_code}"
        if call.op not in (Op.LIST_ORDERS, Op.FIND_PHONE):
            return ""
        body = response.json()
        if call.op is Op.LIST_ORDERS and body.get("next_cursor"):
            self._script.cursors[call.tenant.slug] = body["next_cursor"]
        return "" if body.get("items") else "wrong answer: no rows"

    def _write(
        self, op: Op, to: str, due: float, began: float, *, status: int = 0, error: str = "", sent: bool = True
    ) -> None:
        latency_ms = round((time.monotonic() - due) * 1000, 3) if sent else None
        at = self._began_at + timedelta(seconds=due - self._began)
        sample = Sample(at, op, status, latency_ms, round((began - due) * 1000, 3), error, to)
        self._out.write(sample.to_json() + "\n")

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_S)
            self._out.flush()
            self._routes.refresh()

    async def _finish(self) -> None:
        if self._in_flight:
            _, pending = await asyncio.wait(self._in_flight, timeout=_LAST_ANSWERS_S)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        await self._lanes.aclose()


async def _run(plan: Plan, out: TextIO, routes: Routes) -> None:
    sending = asyncio.create_task(Traffic(plan, out, routes).run())
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, sending.cancel)
    with suppress(asyncio.CancelledError):
        await sending


def main(path: Path) -> None:
    """Carry out the plan in ``path`` until SIGTERM; samples go beside it."""
    # httpcore looks for this module eight times a request; None ends the search at once, without touching the disk
    sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]
    log.to_stream(sys.stderr, level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    plan = Plan.from_json(path.read_text(encoding="utf-8"))
    began = time.monotonic()
    with (path.parent / "load-samples.jsonl").open("w", encoding="utf-8") as out:
        asyncio.run(_run(plan, out, Routes(path.parent / ROUTES)))
    wall_s = time.monotonic() - began
    LOG.info("sent for %.1f s with %.1f %% of a core", wall_s, 100 * time.process_time() / wall_s)
