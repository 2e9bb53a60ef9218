"""How a wrapped key lies in the store, and the pages of newer wraps: bytes, and what each wrap is bound to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from dbsec import canonical
from dbsec.backup.errors import Tampered
from dbsec.clock import rfc3339
from dbsec.errors import NewerFormat

FORMAT: Final = 1
MAGIC: Final = "dbsec-backup-key"
EPOCHS: Final = "keys/epochs/"
REWRAPS: Final = "keys/rewraps/"
RECIPIENTS: Final = "keys/recipients/"
CONTENT: Final = "keys/content.json"
ESCROW: Final = "escrow"
PRIMARY: Final = "kms"
X25519: Final = "x25519:"
ALWAYS: Final = "all"  # the period of the keys that belong to no month
MOST_PAGE_BYTES: Final = 16 << 20
_PROOF: Final = b"dbsec/1/backup epoch"


@dataclass(frozen=True, slots=True)
class Wrap:
    """A key under one holder: ``kms``, ``escrow`` or ``x25519:FINGERPRINT``; ``kek`` and ``version`` are its."""

    holder: str
    kek: str
    version: str
    wrapped: bytes

    @property
    def of_recipient(self) -> bool:
        return self.holder.startswith(X25519)

    def to_json(self) -> dict[str, str]:
        wrapped = base64.b64encode(self.wrapped).decode()
        return {"holder": self.holder, "kek": self.kek, "version": self.version, "wrapped": wrapped}

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Wrap:
        wrapped = base64.b64decode(told["wrapped"], validate=True)
        return cls(str(told["holder"]), str(told["kek"]), str(told["version"]), wrapped)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A wrapped key; ``name`` is its object's.

    ``wraps`` are the newest, ``older`` those that they replace. ``proof``: of an epoch for a recipient, who shows that
    a host of this repository has begun it (``epoch_proof``), for anyone can encrypt to a public key.
    """

    name: str
    system: int
    created: str
    wraps: tuple[Wrap, ...]
    older: tuple[Wrap, ...] = ()
    proof: str = ""

    @property
    def period(self) -> str:
        return period_of(self.name)

    @property
    def created_at(self) -> datetime:
        return datetime.fromisoformat(self.created)

    def raw(self) -> bytes:
        body = {"magic": MAGIC, "format": FORMAT, "name": self.name, "system": self.system, "created": self.created}
        proof = {"proof": self.proof} if self.proof else {}
        return canonical.json_bytes({**body, **proof, "wraps": [wrap.to_json() for wrap in self.wraps]})

    @classmethod
    def parse(cls, name: str, raw: bytes) -> KeyRecord:
        """Read one. Errors: ``Tampered``, ``NewerFormat``."""
        try:
            told = json.loads(raw)
            if told["magic"] == MAGIC and told["format"] > FORMAT:
                raise NewerFormat(f"'{name}'", found=told["format"], known=FORMAT)
            wraps = tuple(Wrap.of_json(one) for one in told["wraps"])
            created, proof = str(told["created"]), str(told.get("proof", ""))
            if told["magic"] != MAGIC or rfc3339(datetime.fromisoformat(created)) != created:
                raise ValueError("another file")
            record = cls(str(told["name"]), int(told["system"]), created, wraps, proof=proof)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise Tampered(name, "it is no key of ours") from None
        if record.name != name:
            raise Tampered(name, f"it is the key '{record.name}'")
        return record


def wrap_aad(name: str, system: int) -> dict[str, str]:
    """Return what a wrap is bound to: the key's name and cluster. A KEK by template is chosen by month."""
    return {"dbsec": "backup key", "name": name, "system": str(system), "tenant": period_of(name)}


def period_of(name: str) -> str:
    """Return the month of an epoch as ``2026-11``: ``{tenant}`` of a KEK template, so that a month is shredded."""
    stem = name.removeprefix(EPOCHS)
    return f"{stem[:4]}-{stem[4:6]}" if stem != name else ALWAYS


def epoch_name(epoch: str) -> str:
    """Return the name of the object with an epoch's key."""
    return f"{EPOCHS}{epoch}.json"


def epoch_proof(content_key: bytes, name: str, system: int, key: bytes) -> str:
    """Return the hex HMAC-SHA256 by which the holder of the content key vouches for the key of an epoch."""
    parts = [_PROOF, name.encode(), str(system).encode(), key]
    return hmac.new(content_key, canonical.length_prefixed(parts), hashlib.sha256).hexdigest()


def parse_page(name: str, raw: bytes) -> dict[str, tuple[Wrap, ...]]:
    """Read a page of rewraps: key name -> its wraps. Errors: ``Tampered``, ``NewerFormat``."""
    try:
        told = json.loads(raw)
        if told["magic"] == MAGIC and told["format"] > FORMAT:
            raise NewerFormat(f"'{name}'", found=told["format"], known=FORMAT)
        if told["magic"] != MAGIC:
            raise ValueError("another file")
        return {key: tuple(Wrap.of_json(one) for one in wraps) for key, wraps in told["wraps"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Tampered(name, "it is no page of keys") from None


def page_bytes(wraps: Mapping[str, Sequence[Wrap]]) -> bytes:
    """Return the bytes of a page of rewraps."""
    body = {name: [wrap.to_json() for wrap in several] for name, several in wraps.items()}
    return canonical.json_bytes({"magic": MAGIC, "format": FORMAT, "wraps": body})
