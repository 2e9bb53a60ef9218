"""Opens the source of secrets that a URI names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from dbsec.errors import ConfigError, ProgramMissing
from dbsec.secrets.provider import Provider

_KNOWN: Final = ("env", "file", "vault")
_MOUNT: Final = re.compile(r"\w[\w-]*(?:/\w[\w-]*)*", re.ASCII)
_TIMEOUT_S: Final = 2.0


def open_secrets(uri: str, *, environ: Mapping[str, str]) -> Provider:
    """Open ``env:``, ``file:/path/secrets.json`` or ``vault://host:port/MOUNT``; no server is asked before a call.

    Parameters of ``vault:``: those of ``vault-transit:`` (``ca``, ``namespace``, ``token``, ``auth``, ``role_id``,
    ``secret_id``, ``auth_mount``) and ``database``, the mount of the engine that issues credentials.
    Errors: ``ConfigError``, ``ProgramMissing``.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in _KNOWN:
        known = ", ".join(f"{one}:" for one in _KNOWN)
        raise ConfigError("that uri names no source of secrets", hint=f"it begins with one of {known}")
    if scheme == "env":
        from dbsec.secrets.providers.env import EnvSecrets

        if rest:
            raise ConfigError("'env:' stands alone: a secret's name is the variable")
        return EnvSecrets(environ)
    if scheme == "file":
        from dbsec.secrets.providers.file import FileSecrets

        if not rest.startswith("/") or rest.startswith("//"):
            raise ConfigError("a 'file:' source is file:/absolute/path.json")
        return FileSecrets(Path(rest))
    return _vault(uri, environ)


def _vault(uri: str, environ: Mapping[str, str]) -> Provider:
    try:
        from dbsec.secrets.providers.vault import VaultSecrets
        from dbsec.vault.query import PARAMETERS, open_vault
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("dbsec"):
            raise
        hint = "pip install 'dbsec[vault]'"
        raise ProgramMissing(f"'vault:' needs the module '{exc.name}', which is not installed", hint=hint) from exc
    parts = urlsplit(uri)
    mount = parts.path.strip("/")
    if not parts.netloc or "@" in parts.netloc or parts.fragment or not _MOUNT.fullmatch(mount):
        raise ConfigError(
            "a 'vault:' uri names host and mount, and no credential",
            hint="write vault://host:8200/secret?ca=/path/ca.pem&token=file:/path",
        )
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigError("the 'vault:' uri has a parameter without a value") from None
    query = dict(pairs)
    known = (*PARAMETERS, "database")
    if len(query) < len(pairs) or (unknown := sorted(set(query) - set(known))):
        which = f"knows no parameter '{unknown[0]}'" if len(query) == len(pairs) else "has a parameter twice"
        raise ConfigError(f"a 'vault:' uri {which}", hint=f"it takes {', '.join(known)}")
    database = query.pop("database", "database").strip("/")
    if not _MOUNT.fullmatch(database):
        raise ConfigError("'database' of a 'vault:' uri is the mount of a database engine", hint="database=database")
    return VaultSecrets(
        open_vault("vault", parts.netloc, query, environ=environ, timeout_s=_TIMEOUT_S), mount, database
    )
