"""Opens and makes the repository that the settings name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from dbsec.backup.errors import NoRepository, Tampered
from dbsec.backup.keys import CONTENT, BackupKeys
from dbsec.backup.recipients import Recipient
from dbsec.backup.repository import MARKER, Marker, Repository, check_cluster, marker_bytes, read_marker
from dbsec.backup.settings import BackupSettings
from dbsec.clock import SYSTEM, Clock
from dbsec.crypto.format import KEY_BYTES
from dbsec.errors import ConfigError, UsageError
from dbsec.kms import Kms, open_kms
from dbsec.secret import resolve
from dbsec.store import ObjectExists, ObjectStore, open_store

MOST_SEGMENT_BYTES = 64 << 20  # a segment is one object


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is asked of a server before anything of it is stored."""

    system: int
    segment_bytes: int


def open_repository(
    settings: BackupSettings, *, environ: Mapping[str, str], cluster: Cluster | None = None, clock: Clock = SYSTEM
) -> Repository:
    """Open what ``init_repository`` has made; with ``cluster``, only where it is that one's.

    Errors: ``ConfigError``; ``NoRepository``; ``WrongCluster``; ``KeyUnavailable``; those of store and KMS.
    """
    store = _store(settings, environ)
    marker = read_marker(store)
    if cluster is not None:
        check_cluster(marker, cluster.system)
    keys = _keys(settings, environ, store, marker.system, clock)
    return _repository(settings, store, marker, keys, clock)


def init_repository(
    settings: BackupSettings, cluster: Cluster, *, environ: Mapping[str, str], clock: Clock = SYSTEM
) -> Repository:
    """Make a repository for a cluster; one that is there, and is its own, is opened.

    Errors: those of ``open_repository``; ``UsageError`` for segments above 64 MB.
    """
    if cluster.segment_bytes > MOST_SEGMENT_BYTES:
        raise UsageError(f"WAL segments of {cluster.segment_bytes >> 20} MB do not fit into an object of 64 MB")
    store = _store(settings, environ)
    with suppress(NoRepository):
        check_cluster(read_marker(store), cluster.system)
    keys = _keys(settings, environ, store, cluster.system, clock)
    # the key before the marker: a run that was killed between them is no repository yet, and goes on here
    if keys.reads:
        try:
            keys.create(CONTENT, os.urandom(KEY_BYTES))
        except ObjectExists:
            keys.opened(CONTENT)
    try:
        store.put(MARKER, marker_bytes(cluster.system, segment_bytes=cluster.segment_bytes, clock=clock))
    except ObjectExists:
        check_cluster(read_marker(store), cluster.system)
    return open_repository(settings, environ=environ, cluster=cluster, clock=clock)


def _repository(
    settings: BackupSettings,
    store: ObjectStore,
    marker: Marker,
    keys: BackupKeys,
    clock: Clock,
) -> Repository:
    content = keys.content()
    if len(content) != KEY_BYTES:
        raise Tampered(CONTENT, f"it holds {len(content)} bytes")
    patience_s = settings.patience.total_seconds()
    return Repository(store, marker.system, keys, content, patience_s=patience_s, clock=clock)


def _content(settings: BackupSettings, environ: Mapping[str, str]) -> bytes | None:
    """Read the content key of a host that only writes; others ask the KMS for it."""
    if not settings.content_key:
        return None
    try:
        content = bytes.fromhex(resolve(settings.content_key, environ=environ).reveal().strip())
    except ValueError:
        content = b""
    if len(content) != KEY_BYTES:
        raise ConfigError("[backup] 'content_key' refers to something else than 64 hex digits")
    return content


def _store(settings: BackupSettings, environ: Mapping[str, str]) -> ObjectStore:
    if not settings.store:
        raise ConfigError("[backup] names no store", hint='[backup] store = "s3://bucket/prefix"')
    return open_store(settings.store, environ=environ)


def _keys(
    settings: BackupSettings, environ: Mapping[str, str], store: ObjectStore, system: int, clock: Clock
) -> BackupKeys:
    recipient = Recipient.of_hex(settings.recipient) if settings.recipient else None
    if not settings.kms and not settings.escrow and recipient is None:
        raise ConfigError(
            "[backup] names no key: nothing is stored in clear",
            hint='[backup] kms = "vault-transit://…" or a recipient',
        )

    content = _content(settings, environ)

    def opened(uri: str) -> Kms | None:
        return open_kms(uri, environ=environ, clock=clock) if uri else None

    return BackupKeys(
        store,
        system,
        kms=opened(settings.kms),
        escrow=opened(settings.escrow),
        recipient=recipient,
        content=content,
        serves=settings.epoch,
        clock=clock,
    )
