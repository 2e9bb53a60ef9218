"""A client from what stands in a URI: where the CA is, which namespace, and the way to a token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dbsec.errors import ConfigError
from dbsec.secret import resolve
from dbsec.vault.auth import AppRole, Auth, TokenAuth
from dbsec.vault.client import Vault
from dbsec.vault.settings import Settings
from dbsec.vault.shared import shared

PARAMETERS = ("ca", "namespace", "token", "auth", "role_id", "secret_id", "auth_mount")


def open_vault(
    scheme: str, host: str, query: Mapping[str, str], *, environ: Mapping[str, str], timeout_s: float
) -> Vault:
    """Return the client that ``PARAMETERS`` describe; references are resolved once, so a wrong one is told now.

    No server is asked. Errors: ``ConfigError`` in the words of the uri's ``scheme``.
    """
    ca = query.get("ca")
    settings = Settings(f"https://{host}", Path(ca) if ca else None, namespace(query), timeout_s)
    return shared(settings, _auth(scheme, query, environ))


def namespace(query: Mapping[str, str]) -> str:
    """Return the namespace, "" for the root."""
    return query.get("namespace", "").strip("/")


def _auth(scheme: str, query: Mapping[str, str], environ: Mapping[str, str]) -> Auth:
    way = query.get("auth", "token")
    if way == "token":
        token = _required(scheme, query, "token")
        resolve(token, environ=environ)
        return TokenAuth(token, environ)
    if way == "approle":
        secret_id, role = _required(scheme, query, "secret_id"), _required(scheme, query, "role_id")
        resolve(secret_id, environ=environ)
        return AppRole(role, secret_id, environ, query.get("auth_mount", "approle"))
    raise ConfigError(f"'{scheme}:' knows no auth '{way}'", hint="auth=token or auth=approle")


def _required(scheme: str, query: Mapping[str, str], name: str) -> str:
    if not query.get(name):
        raise ConfigError(f"a '{scheme}:' uri needs the parameter '{name}'", hint=f"add ?{name}=...")
    return query[name]
