"""Session tokens: signed, short-lived, and naming the tenant that every query is bound to."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import jwt

from app.problems import Problem
from dbsec.clock import SYSTEM, Clock

_ALGORITHM = "HS256"
_CLAIMS = ["sub", "iss", "aud", "iat", "exp"]


class Sessions:
    """Issues and checks the tokens of one service. Source: RFC 8725 (algorithm pinned, issuer and audience checked)."""

    def __init__(self, key: bytes, service: str, *, lifetime_s: int = 900, clock: Clock = SYSTEM) -> None:
        self._key = key
        self.lifetime = timedelta(seconds=lifetime_s)
        self._issuer = service
        self._audience = f"{service}-api"
        self._clock = clock

    def issue(self, tenant: UUID) -> str:
        """Sign a token for this tenant that ends after ``lifetime``."""
        now = self._clock.now()
        claims = {
            "sub": str(tenant),
            "iss": self._issuer,
            "aud": self._audience,
            "iat": now,
            "exp": now + self.lifetime,
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM)

    def tenant(self, token: str) -> UUID:
        """Return whose token this is. Errors: ``Problem`` 401 with one text, whatever is wrong with it."""
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                options={"require": _CLAIMS},
            )
            return UUID(claims["sub"])
        except (jwt.InvalidTokenError, ValueError) as exc:
            raise unauthorized() from exc


def unauthorized() -> Problem:
    """Refuse without saying why."""
    return Problem(401, "unauthorized", "log in at /v1/login", headers={"WWW-Authenticate": "Bearer"})
