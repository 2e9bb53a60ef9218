"""Opens what the settings name: the one way in which command line, service and backfills get an envelope."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import psycopg

from dbsec.clock import SYSTEM, Clock
from dbsec.crypto.envelope import Envelope
from dbsec.crypto.keyring import Keyring
from dbsec.crypto.postgres_store import PostgresKeyStore
from dbsec.crypto.settings import CryptoSettings
from dbsec.errors import ConfigError
from dbsec.kms import Kms, open_kms
from dbsec.pg import Conninfo
from dbsec.pg import connect as connect_to
from dbsec.secret import resolve

Connect = Callable[[], psycopg.Connection[Any]]


def open_envelope(
    settings: CryptoSettings, connect: Connect, environ: Mapping[str, str], *, clock: Clock = SYSTEM
) -> Envelope:
    """Open an envelope; neither KMS nor database is asked before its first use.

    ``connect`` opens a session of the tables' database, which has the keyring too unless the settings name another.
    Errors: ``ConfigError`` for what the settings do not say or refer to; ``ProgramMissing`` for an SDK.
    """
    keyring = Keyring(
        PostgresKeyStore(keyring_connect(settings, connect, environ)),
        opened_kms(settings, environ, clock=clock),
        ttl=settings.ttl,
        max_keys=settings.max_keys,
        max_uses=settings.max_uses,
        profile=settings.profile,
        clock=clock,
    )
    return Envelope(keyring)


def opened_kms(settings: CryptoSettings, environ: Mapping[str, str], *, clock: Clock = SYSTEM) -> Kms:
    """Open the KMS of the settings. Errors: ``ConfigError``, ``ProgramMissing``."""
    if not settings.kms:
        raise ConfigError(
            "[crypto] 'kms': no KMS is named", hint='kms = "file-kek:/path/to/kek.json?passphrase=file:…"'
        )
    return open_kms(settings.kms, environ=environ, clock=clock)


def keyring_connect(settings: CryptoSettings, connect: Connect, environ: Mapping[str, str]) -> Connect:
    """Return what opens a session of the keyring's database. Errors: ``ConfigError`` for a reference to nothing."""
    if not settings.keyring:
        return connect
    return partial(connect_to, Conninfo.parse(resolve(settings.keyring, environ=environ).reveal()))
