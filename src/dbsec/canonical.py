"""Bytes that two programs agree on: canonical JSON, and length-prefixed parts for what is signed or bound."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Any

_LENGTH = struct.Struct(">I")


def json_bytes(value: object) -> bytes:
    """Encode as UTF-8 JSON with sorted keys and no white space.

    Shape: numbers as Python's shortest round trip; NaN raises ``ValueError``. Source: after RFC 8785.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def as_read(value: object) -> Any:
    """Return a value as a reader of its JSON gets it (keys are strings), so that writer and reader see the same.

    Errors: ``TypeError`` or ``ValueError`` for what is no JSON or cannot be encoded.
    """
    plain = json.loads(json.dumps(value, allow_nan=False))
    json_bytes(plain)
    return plain


def length_prefixed(parts: Iterable[bytes]) -> bytes:
    """Join parts so that no two lists give the same bytes.

    Shape: for each part 4 bytes big-endian length, then the part.
    """
    return b"".join([_LENGTH.pack(len(part)) + part for part in parts])
