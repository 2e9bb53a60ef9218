"""Makes a repository for a server, once its store has been seen to keep what is written, and to overwrite nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from dbsec.backup.errors import BackupError
from dbsec.backup.opening import Cluster, init_repository
from dbsec.backup.repository import Repository
from dbsec.backup.settings import BackupSettings
from dbsec.clock import SYSTEM, Clock
from dbsec.evidence import Outcome
from dbsec.store import StoreUnavailable, open_store
from dbsec.store.bucket import ask_bucket
from dbsec.store.probing import Trait, probe, traits_of

_SERVER: LiteralString = """
SELECT (SELECT system_identifier FROM pg_control_system()),
       (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size'),
       current_setting('server_version'), current_setting('data_checksums'), current_setting('archive_mode'),
       current_setting('wal_level'), current_setting('max_wal_senders')::int
"""
_UNPROVEN = ("gs", "az")


class UnsafeStore(BackupError):
    """A store that loses or overwrites what was acknowledged."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Server:
    """What is asked of a server before its backups are taken."""

    cluster: Cluster
    version: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Initialised:
    """The repository, what its store was seen to do, and what is to be mended beside it."""

    repository: Repository
    server: Server
    traits: tuple[Trait, ...]
    warnings: tuple[str, ...]


def initialise(
    settings: BackupSettings,
    session: psycopg.Connection[Any],
    *,
    environ: Mapping[str, str],
    accept_unsafe: bool = False,
    clock: Clock = SYSTEM,
) -> Initialised:
    """Ask the server, probe the store, make the repository; where it is there, nothing is changed.

    Errors: ``UnsafeStore`` unless ``accept_unsafe``; those of ``init_repository``.
    """
    server = ask(session)
    traits = _traits(settings.store, environ, clock) if settings.store else ()
    check_traits(traits, accept_unsafe=accept_unsafe)
    repository = init_repository(settings, server.cluster, environ=environ, clock=clock)
    doubts = [f"{trait.name}: {trait.said}" for trait in traits if trait.outcome in (Outcome.FAIL, Outcome.ERROR)]
    scheme = settings.store.partition(":")[0]
    labels = [f"'{scheme}:' is unproven: no test of dbsec has met a real one"] if scheme in _UNPROVEN else []
    return Initialised(repository, server, traits, (*server.warnings, *doubts, *labels))


def ask(session: psycopg.Connection[Any]) -> Server:
    """Ask a server whose it is, and what its settings mean for backups. Errors: ``BackupError``."""
    row = session.execute(_SERVER).fetchone()
    if row is None:
        raise BackupError("the server does not say whose it is")
    system, segment_bytes, version, checksums, archive_mode, wal_level, senders = row
    warnings = []
    if checksums != "on":
        warnings.append("data_checksums is off: a page that the disk has damaged is backed up as it is")
    if archive_mode == "off":
        warnings.append("archive_mode is off, and takes a restart: without WAL no backup can be restored")
    if wal_level == "minimal":
        warnings.append("wal_level is minimal: no base backup can be taken; set it to replica and restart")
    if not senders:
        warnings.append("max_wal_senders is 0, and takes a restart: the default engine and the receiver need one each")
    return Server(Cluster(int(system), int(segment_bytes)), str(version), tuple(warnings))


def check_traits(traits: tuple[Trait, ...], *, accept_unsafe: bool = False) -> None:
    """Refuse a store that lies. Errors: ``UnsafeStore``; ``StoreUnavailable`` where that could not be tried."""
    for trait in traits:
        if trait.needed and trait.outcome is Outcome.ERROR:
            raise StoreUnavailable(f"{trait.name}: {trait.said}", hint="dbsec backup init again")
        if trait.refused and not accept_unsafe:
            raise UnsafeStore(
                f"{trait.name}: {trait.said}",
                hint="take a store that honours If-None-Match, as S3 does; --accept-unsafe-store to learn what is lost",
            )


def _traits(url: str, environ: Mapping[str, str], clock: Clock) -> tuple[Trait, ...]:
    tried = probe(open_store(url, environ=environ), clock=clock)
    return (*tried, *(traits_of(ask_bucket(url, environ=environ)) if not url.startswith("file:") else ()))
