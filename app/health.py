"""GET /healthz and GET /metrics: is the database there, over which connection, and what was counted."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.problems import unavailable
from app.service import Here, Service

ROUTER = APIRouter()

_PROBE = text(
    "SELECT coalesce(ssl, false) AS ssl, version, cipher"
    " FROM (SELECT 1 AS alive) AS a LEFT JOIN pg_stat_ssl ON pid = pg_backend_pid()"
)


@ROUTER.get("/healthz")
def healthz(service: Here) -> dict[str, Any]:
    """Ask the database, and say how; 503 with the same members where it does not answer.

    Shape: ``status``, ``service``, ``release``, ``flags``, ``generation`` (of the pool that serves; one more after
    each completed reconnect), ``draining`` (connections of earlier generations still open), ``reconnect`` (none,
    running, ok, or "failed: " and why), ``reconnect_attempts`` (ended ones), ``tls`` (of the server's side of this
    connection, from pg_stat_ssl: ssl, version, cipher), ``prepared_statements`` (false behind a pooler that drops
    them).
    """
    members = _members(service)
    try:
        with service.database.session() as session:
            tls = session.execute(_PROBE).mappings().one()
            driver = session.connection().connection.driver_connection
    except DBAPIError as exc:
        raise unavailable(**members) from exc
    prepared = getattr(driver, "prepare_threshold", None) is not None
    return {"status": "ok", **members, "tls": dict(tls), "prepared_statements": prepared}


@ROUTER.get("/metrics")
async def metrics(request: Request) -> Response:
    """Write the metrics in Prometheus' text format."""
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _members(service: Service) -> dict[str, Any]:
    database = service.database
    return {
        "service": service.settings.service,
        "release": service.settings.release,
        "flags": asdict(service.flags),
        "generation": database.generation,
        "draining": database.draining,
        "reconnect": database.reconnect_state,
        "reconnect_attempts": database.reconnect_attempts,
    }
