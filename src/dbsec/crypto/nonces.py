"""Random nonces, drawn by the hundred: the kernel's answer to one costs as much as the encryption of 64 bytes.

A nonce leaves the pool once: ``list.pop`` is one act for all threads, and a fork empties the child's pool. What is not
covered is a snapshot of a running machine that is started twice: keep ``_DRAWN`` small, and see the threat model.
"""

from __future__ import annotations

import os

from dbsec.crypto.format import NONCE_BYTES

_DRAWN = 256
_POOL: list[bytes] = []


def take() -> bytes:
    """Return 12 random bytes that nobody else gets. Source: NIST SP 800-38D, 8.2.2."""
    try:
        return _POOL.pop()
    except IndexError:
        drawn = draw(_DRAWN)
        last = drawn.pop()
        _POOL.extend(drawn)
        return last


def draw(count: int) -> list[bytes]:
    """Return that many nonces at once, none of them from the pool."""
    raw = os.urandom(NONCE_BYTES * count)
    return [raw[at : at + NONCE_BYTES] for at in range(0, len(raw), NONCE_BYTES)]


os.register_at_fork(after_in_child=_POOL.clear)
