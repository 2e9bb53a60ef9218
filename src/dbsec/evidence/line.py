"""One line of the evidence as bytes: what is hashed, and what is signed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dbsec import canonical

FORMAT = 1
FIRST_PREV = "0" * 64
_SEAL_DOMAIN = b"dbsec evidence seal v1"


def line_hash(line: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical.json_bytes({k: v for k, v in line.items() if k != "hash"})).hexdigest()


def canonical_or_empty(line: Mapping[str, Any]) -> bytes:
    try:
        return canonical.json_bytes(line)
    except ValueError:  # NaN or half a surrogate pair: JSON to Python, but never written here
        return b""


def seal_bytes(seal: Mapping[str, Any]) -> bytes:
    signed = {k: v for k, v in seal.items() if k not in ("signature", "hash")}
    return canonical.length_prefixed((_SEAL_DOMAIN, canonical.json_bytes(signed)))


def raw_public(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
