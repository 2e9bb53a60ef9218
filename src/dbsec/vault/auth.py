"""How a client comes to its token: from a reference that somebody else renews, or by a login."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dbsec.errors import ConfigError
from dbsec.secret import Secret, resolve
from dbsec.vault.answers import Body, part
from dbsec.vault.errors import VaultNotFound, VaultRefused, VaultUnavailable


@dataclass(frozen=True, slots=True)
class Token:
    """A token and its life: ``ttl_s`` seconds from now, 0 for ever or not known."""

    secret: Secret
    ttl_s: float = 0
    renewable: bool = False


def granted(answer: Body) -> Token:
    """Read the token that a login or a renewal granted."""
    auth = part(answer, "auth")
    token, ttl_s = part(answer, "auth", "client_token"), part(answer, "auth", "lease_duration")
    return Token(Secret(str(token)), float(ttl_s), bool(auth.get("renewable")))


class Call(Protocol):
    """Sends one request, with the token that is given or without any."""

    def __call__(self, method: str, path: str, body: Body | None = None, *, token: Secret | None = None) -> Body:
        """Return the answer's JSON."""


class Auth(Protocol):
    """A way to a token."""

    @property
    def key(self) -> Hashable:
        """Equal for two ways that lead to the same token."""

    def login(self, call: Call) -> Token:
        """Bring a token now."""

    def moved_on(self, held: Secret) -> bool:
        """Tell, without asking the server, whether a login brings another token than this one that still lives."""


@dataclass(frozen=True, slots=True)
class TokenAuth:
    """A token by reference (``file:`` or ``env:``), read at each login: an agent may have put a new one there."""

    reference: str
    environ: Mapping[str, str] = field(repr=False)

    @property
    def key(self) -> Hashable:
        """The reference, and whose environment it is read in."""
        return ("token", self.reference, id(self.environ))

    def login(self, call: Call) -> Token:
        """Read the token and ask the server for its life; one that may not ask counts as without end."""
        secret = _credential(self.reference, self.environ)
        try:
            told = call("GET", "auth/token/lookup-self", token=secret)
        except (VaultRefused, VaultNotFound):
            return Token(secret)
        return Token(secret, float(part(told, "data", "ttl")), bool(told["data"].get("renewable")))

    def moved_on(self, held: Secret) -> bool:
        """Tell whether another token stands there now."""
        return _credential(self.reference, self.environ) != held


@dataclass(frozen=True, slots=True)
class AppRole:
    """A login with a role id and, by reference, its secret id. Source: openbao.org, "AppRole auth method"."""

    role_id: str
    secret_id: str
    environ: Mapping[str, str] = field(repr=False)
    mount: str = "approle"

    @property
    def key(self) -> Hashable:
        """The role, its reference, and whose environment that is read in."""
        return ("approle", self.mount, self.role_id, self.secret_id, id(self.environ))

    def login(self, call: Call) -> Token:
        """Log in; the secret id is read each time, for it is rotated too."""
        secret_id = _credential(self.secret_id, self.environ)
        body = {"role_id": self.role_id, "secret_id": secret_id.reveal()}
        return granted(call("POST", f"auth/{self.mount}/login", body))

    def moved_on(self, held: Secret) -> bool:
        """Tell no: each login brings another token with the same rights."""
        return False


def _credential(reference: str, environ: Mapping[str, str]) -> Secret:
    """Read a credential now. What cannot be read in the middle of the work may be there a moment later."""
    try:
        return resolve(reference, environ=environ)
    except ConfigError as exc:
        raise VaultUnavailable(exc.message, hint=exc.hint) from exc
