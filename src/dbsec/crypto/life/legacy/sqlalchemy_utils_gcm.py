"""StringEncryptedType of SQLAlchemy-Utils with AesGcmEngine: base64 of IV 12, tag 16, ciphertext; no AAD."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dbsec.crypto.life.legacy import Format, Reader, first, text_of
from dbsec.secret import Secret

_IV, _TAG = 12, 16


def _reader(key: Secret) -> Reader:
    cipher = AESGCM(hashlib.sha256(key.reveal().encode()).digest())

    def read(value: Any) -> bytes:
        raw = base64.b64decode(text_of(value), validate=True)
        if len(raw) < _IV + _TAG:
            raise ValueError("cut off")
        try:
            return cipher.decrypt(raw[:_IV], raw[_IV + _TAG :] + raw[_IV : _IV + _TAG], None)
        except InvalidTag as exc:
            raise ValueError("not of this key") from exc

    return read


def _open(keys: Sequence[Secret], _: str) -> Reader:
    return first([_reader(key) for key in keys])


FORMAT = Format("SQLAlchemy-Utils, AesGcmEngine", _open)
