"""Fernet tokens, of one key or of a list as MultiFernet takes it. Source: the Fernet spec (version 0x80)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from dbsec.crypto.life.legacy import Format, Reader
from dbsec.secret import Secret


def of_keys(keys: Sequence[str | bytes]) -> Reader:
    """Return the reader of these keys, which are url-safe base64 of 32 bytes. Errors: ``ValueError``."""
    cipher = MultiFernet([Fernet(key) for key in keys])

    def read(value: Any) -> bytes:
        try:
            return cipher.decrypt(value if isinstance(value, str) else bytes(value))
        except InvalidToken as exc:
            raise ValueError("not a token of these keys") from exc

    return read


def _open(keys: Sequence[Secret], _: str) -> Reader:
    return of_keys([key.reveal() for key in keys])


FORMAT = Format("Fernet tokens of cryptography; several keys as MultiFernet tries them", _open)
