"""What is kept of a DEK that Transit wrapped: its own text says one thing in many spellings, these bytes in one."""

from __future__ import annotations

import base64
import binascii
import re
import struct

from dbsec.kms.errors import KmsRefused

_HEAD = struct.Struct(">BI")
_FORMAT = 1
_PREFIX = "vault:v"
_TEXT = re.compile(r"vault:v(\d{1,9}):([A-Za-z0-9+/]+={0,2})", re.ASCII)
_LEAST = 12 + 16  # nonce and tag


def packed(text: str) -> bytes:
    """Turn ``vault:vN:BASE64`` into bytes.

    Shape: 0x01, the version of the KEK (4 bytes big-endian), then nonce, ciphertext and tag. Transit takes ``v0`` for
    ``v1`` and ignores the last bits of a base64 text: kept as text, an altered value would still be accepted.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise KmsRefused("the answer of vault-transit is no ciphertext", cause_known=f"it has {len(text)} letters")
    return _HEAD.pack(_FORMAT, int(found[1])) + base64.b64decode(found[2], validate=True)


def unpacked(wrapped: bytes) -> str:
    """Return the text that Transit takes. Errors: ``KmsRefused`` for what ``packed`` never returned."""
    if len(wrapped) < _HEAD.size + _LEAST:
        raise KmsRefused("this is no DEK that vault-transit wrapped", cause_known="it is too short")
    form, version = _HEAD.unpack_from(wrapped)
    if form != _FORMAT or version == 0:
        raise KmsRefused("this is no DEK that vault-transit wrapped", cause_known="its first bytes say so")
    return f"{_PREFIX}{version}:{binascii.b2a_base64(wrapped[_HEAD.size :], newline=False).decode()}"
