"""The client: every request with a live token, renewed before its end and replaced when it was refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from dbsec.clock import SYSTEM, Clock
from dbsec.secret import Secret
from dbsec.vault.answers import Body, part
from dbsec.vault.auth import Auth, Token, granted
from dbsec.vault.errors import VaultError, VaultNotFound, VaultRefused, VaultUnavailable
from dbsec.vault.settings import Settings
from dbsec.vault.wire import Wire

_RENEW_AT = 2 / 3  # of its life, as the agents of both servers do
_AGAIN_S = 5.0  # after a renewal that failed
_AT_LEAST_S = 1.0  # between renewals of a token that nears the end that nobody can move


class Vault:
    """One server with one credential; safe in threads, and after a fork each process has its own connections.

    The token is renewed in the calling path: at two thirds of its life by one thread, while the others go on with it.
    A client that rests for longer than a token lives logs in again; a token by reference must then have been replaced
    there, as an agent does. Errors of every call: ``VaultUnavailable``, ``VaultRefused``, ``VaultNotFound``.
    """

    def __init__(self, settings: Settings, auth: Auth, *, clock: Clock = SYSTEM) -> None:
        self._settings = settings
        self._auth = auth
        self._clock = clock
        self._own: _Session | None = None

    def __repr__(self) -> str:
        return f"<Vault {self._settings.host}>"

    def read(self, path: str) -> Body:
        """Read what is at a path."""
        return self._call("GET", path)

    def write(self, path: str, body: Body | None = None) -> Body:
        """Write to a path; of a batch in which items failed, the answer holds the results all the same."""
        return self._call("POST", path, body or {})

    def delete(self, path: str) -> None:
        """Delete what is at a path."""
        self._call("DELETE", path)

    def names(self, path: str) -> Sequence[str]:
        """List the names below a path; empty where there is none."""
        try:
            return [str(name) for name in part(self._call("LIST", path), "data", "keys")]
        except VaultNotFound:
            return []

    def _call(self, method: str, path: str, body: Body | None = None) -> Body:
        session = self._session()
        token = session.token()
        try:
            return session.wire.call(method, path, body, token=token)
        except VaultRefused as exc:
            if not exc.denied or (fresh := session.replacing(token)) is None:
                raise
        return session.wire.call(method, path, body, token=fresh)

    def _session(self) -> _Session:
        """Return this process's session; the parent's is dropped as it is: to close it would end the parent's too."""
        if self._own is None or self._own.pid != os.getpid():
            self._own = _Session(self._settings, self._auth, self._clock)
        return self._own


class _Session:
    """What one process has: connections, a token, and a lock that no other process can have left held."""

    def __init__(self, settings: Settings, auth: Auth, clock: Clock) -> None:
        self.pid = os.getpid()
        self.wire = Wire(settings)
        self._host = settings.host
        self._patience_s = 3 * settings.timeout_s
        self._auth = auth
        self._clock = clock
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._renew_at = self._ends_at = float("inf")

    def token(self) -> Secret:
        """Return a token that lives, of which one thread renews what nears its end."""
        now = self._clock.monotonic()
        held = self._token
        if held is None or now >= self._ends_at:
            return self._login(held)
        if now >= self._renew_at and self._lock.acquire(blocking=False):
            try:
                self._renew(held)
            finally:
                self._lock.release()
        return (self._token or held).secret

    def replacing(self, refused: Secret) -> Secret | None:
        """Return another token than the one that was refused; None where the credential leads to the same again."""
        held = self._token
        if held is not None and held.secret != refused:
            return held.secret
        if held is not None and not self._auth.moved_on(refused) and self._lives(refused):
            return None
        fresh = self._login(held)
        return None if fresh == refused else fresh

    def _lives(self, token: Secret) -> bool:
        """Tell a token without the right from one that has ended: a login would not give the first its right."""
        try:
            self.wire.call("GET", "auth/token/lookup-self", token=token)
        except (VaultRefused, VaultNotFound):
            return False
        return True

    def _login(self, ended: Token | None) -> Secret:
        """Log in as one thread; the others wait for it, and not for ever."""
        if not self._lock.acquire(timeout=self._patience_s):
            raise VaultUnavailable(f"another thread still logs in at '{self._host}'")
        try:
            if self._token is ended:
                self._hold(self._auth.login(self.wire.call))
            assert self._token is not None
            return self._token.secret
        finally:
            self._lock.release()

    def _renew(self, held: Token) -> None:
        """Lengthen the token's life, or log in anew where it has reached its longest. The old one still serves."""
        if self._token is not held or self._clock.monotonic() < self._renew_at:
            return
        self._renew_at = self._clock.monotonic() + _AGAIN_S
        try:
            token = self._lengthened(held) or self._auth.login(self.wire.call)
        except VaultError:
            return
        self._hold(token)

    def _lengthened(self, held: Token) -> Token | None:
        if not held.renewable:
            return None
        try:
            longer = granted(self.wire.call("POST", "auth/token/renew-self", {}, token=held.secret))
        except VaultRefused:
            return None
        return longer if longer.ttl_s >= held.ttl_s / 2 else None

    def _hold(self, token: Token) -> None:
        now = self._clock.monotonic()
        lives_s = token.ttl_s or float("inf")
        self._renew_at, self._ends_at = now + max(_RENEW_AT * lives_s, _AT_LEAST_S), now + lives_s
        self._token = token
