"""One request and its answer: what went wrong in words that hold no token and no body."""

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from hvac.adapters import RawAdapter

from dbsec.errors import reason
from dbsec.secret import Secret
from dbsec.vault.answers import Body
from dbsec.vault.errors import VaultNotFound, VaultRefused, VaultUnavailable
from dbsec.vault.settings import Settings

_LATER = {408, 412, 425, 429, 472, 473}
_CONNECTIONS = 16


class Wire:
    """Keep-alive connections to one server, for the threads of one process.

    A child that was forked makes its own: two processes on one TLS connection would break each other's.
    """

    def __init__(self, settings: Settings) -> None:
        self._host = settings.host
        session = requests.Session()
        session.trust_env = False  # else REQUESTS_CA_BUNDLE would replace the CA, and ~/.netrc the credentials
        session.verify = str(settings.ca) if settings.ca else True  # hvac lets the session's own win over verify=
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))  # threads share it: it holds no state
        session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS))
        # A redirect would take the token along, to wherever it points.
        self._adapter = RawAdapter(
            base_uri=settings.address,
            session=session,
            namespace=settings.namespace or None,
            timeout=(settings.timeout_s, settings.timeout_s),
            allow_redirects=False,
        )

    def call(self, method: str, path: str, body: Body | None = None, *, token: Secret | None = None) -> Body:
        """Send one request and return the answer's JSON, ``{}`` where it has none.

        Errors: ``VaultUnavailable``, ``VaultRefused``, ``VaultNotFound``.
        """
        headers = {} if token is None else {"X-Vault-Token": token.reveal()}
        try:
            reply = self._adapter.request(method, f"/v1/{path}", headers, raise_exception=False, json=body)
        except requests.RequestException as exc:
            failed = self._unanswered(exc, path)
        else:
            return self._read(reply, f"{method} {path}")
        raise failed  # and not from exc: that one holds the request, and so token and body

    def _unanswered(self, exc: requests.RequestException, path: str) -> VaultUnavailable:
        if isinstance(exc, requests.exceptions.SSLError):
            return VaultUnavailable(f"TLS with '{self._host}' failed: {_ssl_reason(exc)}", hint="check ca=/path/ca.pem")
        if isinstance(exc, requests.Timeout):
            return VaultUnavailable(f"'{self._host}' did not answer '{path}' in time")
        return VaultUnavailable(f"'{self._host}' cannot be reached: {_network_reason(exc)}")

    def _read(self, reply: requests.Response, what: str) -> Body:
        body = _json(reply)
        status = reply.status_code
        if status < 300 and not body and reply.content.strip() not in (b"", b"{}"):
            raise VaultUnavailable(f"'{self._host}' answered {what} with no JSON", hint="does a proxy answer for it?")
        if status < 300 or (status == 400 and "batch_results" in (body.get("data") or ())):
            return body
        answer = "; ".join(" ".join(str(e).split()) for e in body.get("errors") or ()) or f"status {status}"
        said = f"'{self._host}' answered {what}: {answer}"
        if status >= 500 or status in _LATER:
            raise VaultUnavailable(said)
        if status < 400:
            raise VaultUnavailable(f"'{self._host}' redirects {what}", hint="name the active server in the address")
        if status == 404:
            raise VaultNotFound(said)
        raise VaultRefused(said, status=status, answer=answer)


def _json(reply: requests.Response) -> dict[str, Any]:
    try:
        body = reply.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _ssl_reason(exc: BaseException) -> str:
    text = str(exc)
    return text[text.find("[SSL") :].rstrip("')( ") if "[SSL" in text else reason(exc)


def _network_reason(exc: BaseException) -> str:
    """Say the innermost reason: the outer ones quote the whole request line."""
    inner = exc.args[0] if exc.args else exc
    cause = getattr(inner, "reason", inner)
    return reason(cause if isinstance(cause, BaseException) else exc).rpartition(": ")[2]
