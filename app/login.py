"""POST /v1/login: an API key becomes a session token."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from app.service import Here
from app.sessions import unauthorized
from app.tables import Tenant

ROUTER = APIRouter()


class Login(BaseModel):
    """What a tenant proves itself with."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    tenant: str = Field(pattern=r"^[a-z0-9-]{1,63}$")
    api_key: str = Field(min_length=1, max_length=200)


class Token(BaseModel):
    """What it gets, to be sent as ``Authorization: Bearer``."""

    token: str
    expires_in: int


async def limited(login: Login, service: Here) -> Login:
    """Let a login through, at the rate of its tenant."""
    service.logins.take(login.tenant)
    return login


@ROUTER.post("/v1/login")
def log_in(login: Annotated[Login, Depends(limited)], service: Here, response: Response) -> Token:
    """Exchange an API key. An unknown tenant and a wrong key look alike, in text and in time."""
    with service.database.session() as session:
        # the one query without a tenant predicate: it is what finds the tenant
        found = session.execute(select(Tenant.id, Tenant.api_key_hash).where(Tenant.slug == login.tenant)).one_or_none()
    tenant, wanted = found if found else (None, bytes(32))
    given = hashlib.sha256(login.api_key.encode()).digest()
    if not hmac.compare_digest(given, wanted) or tenant is None:
        raise unauthorized()
    response.headers["Cache-Control"] = "no-store"
    return Token(token=service.sessions.issue(tenant), expires_in=int(service.sessions.lifetime.total_seconds()))
