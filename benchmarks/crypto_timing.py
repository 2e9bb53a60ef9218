"""How long a refused decryption takes, by its cause: whoever may write a column and ask the service could measure it.

Causes under one cached key (tag, nonce, ciphertext, row) take one way through the code, and must not differ
beyond noise. A value that names another key, or is no value at all, takes another way: its writer knows that himself.
``unknown key`` asks the keyring each time, here in memory; over PostgreSQL it takes the time of a session more.
"""

from __future__ import annotations

import gc
import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from _bench import arguments, last_line, show

from dbsec.crypto import DecryptionFailed, Envelope, Field, Keyring, MemoryKeyStore
from dbsec.kms.kek_file import Cost
from dbsec.kms.schemes.file_kek import FileKek, FileKekAdmin
from dbsec.secret import Secret

PHONE = Field("app.users", "phone")
AT = {"tenant": "acme", "row": 1}
CALLS = 20
Case = tuple[bytes, dict[str, Any]]


def envelope_in(folder: Path) -> Envelope:
    """Make an envelope over a KEK file."""
    passphrase = Secret("a passphrase of the benchmark")
    FileKekAdmin(folder / "kek.json", lambda: passphrase, cost=Cost(2**14)).create()
    return Envelope(Keyring(MemoryKeyStore(), FileKek(folder / "kek.json", lambda: passphrase)))


def flipped(value: bytes, at: int, mask: int = 1) -> bytes:
    """Flip a bit."""
    changed = bytearray(value)
    changed[at] ^= mask
    return bytes(changed)


def cases(envelope: Envelope) -> tuple[dict[str, Case], dict[str, Case]]:
    """Return the causes that take one way through the code, and the others."""
    value = envelope.encrypt(b"+4915112345678", PHONE, **AT)
    theirs = envelope.encrypt(b"+4915112345678", PHONE, tenant="globex", row=1)
    for blob, tenant in ((value, "acme"), (theirs, "globex")):
        envelope.decrypt(blob, PHONE, tenant=tenant, row=1)
    alike = {
        "first bit of the tag": (flipped(value, -16, 128), AT),
        "last bit of the tag": (flipped(value, -1), AT),
        "nonce": (flipped(value, 6), AT),
        "first byte of ciphertext": (flipped(value, 18), AT),
        "last byte of ciphertext": (flipped(value, -17), AT),
        "another row": (value, {"tenant": "acme", "row": 2}),
    }
    others = {
        "another row's version": (value, {**AT, "version": 2}),
        "key of another tenant": (theirs, AT),
        "unknown key": (flipped(value, 4), AT),
        "unknown algorithm": (flipped(value, 1, 4), AT),
        "cut off": (value[:20], AT),
        "empty": (b"", AT),
    }
    return alike, others


def measured(envelope: Envelope, chosen: dict[str, Case], rounds: int) -> dict[str, list[float]]:
    """Time each case in turn, ``rounds`` times, in another order each time; nanoseconds a call."""
    order = list(chosen.items())
    took: dict[str, list[float]] = {name: [] for name in chosen}
    gc.disable()
    for _ in range(rounds):
        random.shuffle(order)  # whoever follows a slow case finds cold caches
        for name, (blob, at) in order:
            start = time.perf_counter_ns()
            for _ in range(CALLS):
                refused(envelope, blob, at)
            took[name].append((time.perf_counter_ns() - start) / CALLS)
    gc.enable()
    return took


def refused(envelope: Envelope, blob: bytes, at: dict[str, Any]) -> None:
    """Decrypt what is no good. Errors: ``AssertionError`` where it is accepted."""
    try:
        envelope.decrypt(blob, PHONE, **at)
    except DecryptionFailed:
        return
    raise AssertionError("it was accepted")


def main() -> None:
    chosen = arguments(__doc__ or "")
    rounds = 500 if chosen.quick else 4000
    with tempfile.TemporaryDirectory() as folder:
        envelope = envelope_in(Path(folder))
        alike, others = cases(envelope)
        took = measured(envelope, {**alike, **others}, rounds)
    same_way = {name: took[name] for name in alike}
    show("A refusal under one cached key, by its cause", "ns", same_way, ours="another row")
    show("A refusal of what names another key, or none", "ns", {n: took[n] for n in others}, ours="cut off")
    medians = [median(values) for values in same_way.values()]
    last_line(chosen.json, refusal_spread_under_one_key=round(max(medians) / min(medians), 3))


if __name__ == "__main__":
    main()
