"""The parts of a running service, and how a request gets them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request

from app.database import Database
from app.encryption import open_for
from app.limits import TokenBuckets
from app.people import People
from app.sessions import Sessions, unauthorized
from app.settings import Settings
from dbsec.errors import DbsecError

LOG = logging.getLogger("app")


class Service:
    """Built once from the settings.

    Logins have buckets of their own: anyone can send one, and it must not use up what a tenant's sessions may send.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.flags = settings.flags()
        encrypts = settings.encrypted | settings.changing
        envelope = open_for(settings.environ, settings.conninfo) if encrypts else None
        self.database = Database(settings.conninfo, max_size=settings.pool_max, envelope=envelope)
        self.sessions = Sessions(settings.subkey("session"), settings.service, lifetime_s=settings.session_s)
        self.cursor_key = settings.subkey("cursor")
        self.request_key = settings.subkey("idempotency")
        self.people = People.of(settings, lambda: self.flags)
        self.requests = TokenBuckets(settings.rate_per_s)
        self.logins = TokenBuckets(settings.rate_per_s)
        self._reloading = ThreadPoolExecutor(1, thread_name_prefix="reload")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Service:
        """Build it from ``APP_*``. Errors: ``ConfigError``."""
        return cls(Settings.from_environ(environ))

    def reload(self) -> None:
        """Read flags and DSN again, in the background, one reload after the other; requests go on meanwhile."""
        self._reloading.submit(self._reload)

    def close(self) -> None:
        """Close the database; requests have ended by now."""
        self._reloading.shutdown()
        self.database.close()

    def _reload(self) -> None:
        try:
            self.flags = self.settings.flags()
        except DbsecError as exc:
            LOG.error("the old flags stay: %s", exc.message)
        try:
            self.database.reconnect()
        except Exception:
            LOG.exception("reconnecting failed in a way that nobody thought of")
            raise


# Async, though nothing is awaited: a plain function would take a thread of the pool for each request.
async def of_request(request: Request) -> Service:
    """Return the service that this request is for."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


Here = Annotated[Service, Depends(of_request)]


async def current_tenant(request: Request, service: Here) -> UUID:
    """Return the tenant of the session token, after taking a token of its rate limit.

    Errors: ``Problem`` 401 and 429.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise unauthorized()
    tenant = service.sessions.tenant(token.strip())
    service.requests.take(tenant)
    return tenant


CurrentTenant = Annotated[UUID, Depends(current_tenant)]
