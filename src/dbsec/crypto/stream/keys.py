"""Streams under the keyring's DEKs: a tenant's files are shredded with its columns."""

from __future__ import annotations

from typing import NamedTuple

from dbsec.crypto.binding import Field
from dbsec.crypto.keyring import Keyring
from dbsec.crypto.stream.format import KeyOf, Prelude

_PURPOSE = b"dbsec/1/streams"


class StreamKey(NamedTuple):
    """A key that encrypts streams, and the key id that leads their readers to it."""

    key: bytes
    key_id: int


def stream_key(keyring: Keyring, field: Field, *, tenant: str) -> StreamKey:
    """Return what ``encrypt_stream`` takes as ``key`` and ``key_id``: a subkey of the DEK that writes now.

    Take it for each stream, and not once for all: it is rotated. Errors: those of ``Envelope.encrypt``.
    """
    key_id, key = keyring.subkey(tenant, field, _PURPOSE)
    return StreamKey(key, key_id)


def stream_keys(keyring: Keyring, field: Field, *, tenant: str) -> KeyOf:
    """Return what ``decrypt_stream`` takes as ``key``: it finds the tenant's key that a stream names, old ones too.

    Errors of its use: ``KmsUnavailable``; ``ConnectError``.
    """

    def key_of(prelude: Prelude) -> bytes:
        return keyring.subkey(tenant, field, _PURPOSE, prelude.key_id)[1]

    return key_of
