"""Opens the store that a URL names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from dbsec.errors import ConfigError, ProgramMissing
from dbsec.store.port import ObjectStore

CLOUDS = ("s3", "gs", "az")


def open_store(url: str, *, environ: Mapping[str, str]) -> ObjectStore:
    """Open ``file:///folder``, ``s3://bucket/prefix``, ``gs://`` or ``az://`` (both unproven); nothing is asked yet.

    Parameters of ``s3:``: ``endpoint``, ``region``, ``ca`` (a PEM file), ``access_key_id`` and ``secret_access_key``
    (each a reference ``env:`` or ``file:``); without them what the SDKs take from the environment.
    Errors: ``ConfigError``, ``ProgramMissing``.
    """
    parts = urlsplit(url)
    if parts.fragment or parts.username or parts.password:
        raise ConfigError(f"the '{parts.scheme}:' url holds a user or '#'", hint="credentials are references: ?…=env:…")
    if parts.scheme == "file":
        from dbsec.store.file import FileStore

        if parts.netloc or parts.query or not parts.path.startswith("/"):
            raise ConfigError("a 'file:' store is file:///absolute/folder")
        return FileStore(Path(parts.path))
    if parts.scheme in CLOUDS:
        try:
            from dbsec.store.cloud import open_cloud
        except ModuleNotFoundError as exc:
            raise ProgramMissing(
                f"'{parts.scheme}:' needs '{exc.name}', which is not installed", hint="pip install 'dbsec[backup]'"
            ) from exc
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        return open_cloud(parts.scheme, parts.netloc, parts.path.strip("/"), query, environ)
    raise ConfigError(f"no store has the scheme '{parts.scheme}'", hint=f"known are file, {', '.join(CLOUDS)}")
