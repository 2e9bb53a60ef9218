"""Reads the chain again, and says whether it is whole and whose it is."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dbsec.errors import EvidenceError, EvidenceTampered, NewerFormat
from dbsec.evidence.line import FIRST_PREV, FORMAT, canonical_or_empty, line_hash, raw_public, seal_bytes


@dataclass(frozen=True, slots=True)
class Verification:
    """What ``verify`` found: how many lines, the head, and whether the signature was checked with a known key."""

    count: int
    head: str
    signed_by: str | None

    @property
    def summary(self) -> str:
        if self.signed_by is None:
            return f"consistent, unsigned: {self.count} lines, no public key was given"
        return f"authentic: {self.count} lines signed by Ed25519 key {self.signed_by[:12]}"


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of an evidence file as they stand, without verifying.

    Errors: ``EvidenceError`` for a file that cannot be read, ``EvidenceTampered`` for a line that is not a JSON object,
    ``NewerFormat``.
    """
    for _, line in _parsed(path):
        yield line


def _parsed(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    try:
        with path.open("rb") as stream:
            for number, text in enumerate(stream, 1):
                yield text, _parse(path, text, number)
    except OSError as exc:
        raise EvidenceError(f"cannot read '{path}': {exc.strerror}", hint="dbsec demo") from exc


def _parse(path: Path, text: bytes, number: int) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise EvidenceTampered(f"'{path}' is not JSON", line=number) from exc
    if not isinstance(line, dict):
        raise EvidenceTampered(f"'{path}' is not an object", line=number)
    if isinstance(line.get("format"), int) and line["format"] > FORMAT:
        raise NewerFormat(f"'{path}'", found=line["format"], known=FORMAT)
    return line


def verify(path: Path, public_key: Ed25519PublicKey | None = None) -> Verification:
    """Check chain, count and, with a key, the signature.

    Errors: ``EvidenceTampered`` for a line changed, dropped, reordered or cut, or another key; ``EvidenceError``.
    """
    prev, line, number, sealed = FIRST_PREV, dict[str, Any](), 0, False
    for number, (text, line) in enumerate(_parsed(path), 1):
        _verify_link(text, line, prev, number)
        if sealed:
            raise EvidenceTampered("something follows the seal", line=number)
        prev, sealed = str(line["hash"]), line.get("kind") == "seal"
    if not sealed:
        raise EvidenceTampered("the seal is missing: the end was cut, or the run did not finish", line=number + 1)
    return _verify_seal(line, number, public_key)


def _verify_link(text: bytes, line: Mapping[str, Any], prev: str, number: int) -> None:
    if line.get("prev") != prev:
        raise EvidenceTampered("does not follow the line before it: one was dropped, added or moved", line=number)
    # Other bytes of the same values (a key twice, 1e0 for 1.0, no newline) would show one thing and hash another.
    if text != canonical_or_empty(line) + b"\n":
        raise EvidenceTampered("was changed: it is not canonical JSON and a newline", line=number)
    if line.get("hash") != line_hash(line):
        raise EvidenceTampered("was changed: its hash is another", line=number)


def _verify_seal(seal: Mapping[str, Any], number: int, public_key: Ed25519PublicKey | None) -> Verification:
    count, head = number - 1, str(seal["prev"])
    if seal.get("count") != count or seal.get("head") != head:
        raise EvidenceTampered("the seal counts other lines than there are", line=number)
    if public_key is None:
        return Verification(count, head, None)
    raw = raw_public(public_key)
    try:
        public_key.verify(base64.b64decode(str(seal.get("signature", ""))), seal_bytes(seal))
    except (InvalidSignature, ValueError) as exc:
        raise EvidenceTampered("the signature is not of this public key", line=number) from exc
    return Verification(count, head, raw.hex())
