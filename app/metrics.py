"""What Prometheus is told: requests by route, their latency, and the pool. No label holds a tenant or a raw path."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.database import Database

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_BUCKETS_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The registry of one application."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody asks for
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "app_requests", "Requests answered", ("method", "route", "status"), registry=self.registry
        )
        self.latency = Histogram(
            "app_request_seconds", "From the first byte in to the last out", ("route",), buckets=_BUCKETS_S,
            registry=self.registry,
        )  # fmt: skip


class PoolCollector(Collector):
    """Reads the pool when Prometheus asks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        stats = self._database.stats()
        size, idle = stats.get("pool_size", 0), stats.get("pool_available", 0)
        connections = GaugeMetricFamily("app_pool_connections", "Connections by state", labels=["state"])
        connections.add_metric(["idle"], idle)
        connections.add_metric(["in_use"], size - idle)
        connections.add_metric(["draining"], self._database.draining)
        yield connections
        yield GaugeMetricFamily(
            "app_pool_waiting", "Requests that wait for one", value=stats.get("requests_waiting", 0)
        )
        yield GaugeMetricFamily("app_pool_generation", "Which pool serves", value=self._database.generation)


class Measured:
    """Counts and times each request. Plain ASGI: Starlette's own base class for middleware costs a task per request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        began = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(method, route, status).inc()
            self._metrics.latency.labels(route).observe(time.perf_counter() - began)
