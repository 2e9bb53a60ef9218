"""What encrypting one value costs: dbsec beside tink, aws-encryption-sdk, SQLAlchemy-Utils, Fernet, pgcrypto, Transit.

Time is told in multiples of "raw": one AESGCM object called again and again from a Python loop with a fixed nonce and no
AAD, which is what the cipher itself costs in Python and what nobody may do. dbsec is the public Envelope with a warm
cache, bound to tenant, column and row: one value a call ("single") and 2,000 ("bulk"). Libraries run in environments of
their own, servers on this machine without TLS in the way of pgcrypto; "single" of a server is a call for a value, which
is how a library's user calls it. All take turns in each round, and the least of the rounds counts.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

from _bench import ROOT, arguments, last_line, peer
from _sides import SIDES, Act, Make, one_by_one, timed
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from rich.console import Console
from rich.table import Table

from dbsec.crypto import Envelope, Field, Keyring, MemoryKeyStore
from dbsec.kms import open_admin, open_kms
from dbsec.lab import account, ports
from dbsec.pg import connect
from dbsec.progress import Silent
from dbsec.testing.clusters import Clusters

SIZES = (16, 64, 1024, 16384)
BULK = 2000
TURN_NS = 1_500_000
RAW, SINGLE, MANY = "raw AESGCM", "dbsec single", "dbsec bulk"
PHONE = Field("app.users", "phone")
TENANT = "tenant-0042"
ASKED_AT_ONCE = 499  # OpenBao refuses more strings in one request
Ask = Callable[[str, int, int], tuple[int, int]]  # act, bytes of plaintext, times -> nanoseconds, bytes of ciphertext


def raw(size: int) -> tuple[Act, Act, int]:
    """Make the unit of all ratios."""
    cipher, nonce, plain = AESGCM(bytes(range(32))), bytes(12), bytes(size)
    encrypt, decrypt, encrypted = cipher.encrypt, cipher.decrypt, cipher.encrypt(nonce, plain, None)

    def encrypt_n(n: int) -> None:
        for _ in repeat(None, n):
            encrypt(nonce, plain, None)

    def decrypt_n(n: int) -> None:
        for _ in repeat(None, n):
            decrypt(nonce, encrypted, None)

    return encrypt_n, decrypt_n, len(encrypted) + len(nonce)


def fernet(size: int) -> tuple[Act, Act, int]:
    """Make what many projects write themselves."""
    cipher = Fernet(Fernet.generate_key())
    return one_by_one(cipher.encrypt, cipher.decrypt, bytes(size))


def envelope(folder: Path) -> Envelope:
    """Open the Envelope of a service: a keyring in memory, its DEKs wrapped by a KEK file."""
    passphrase = folder / "passphrase"
    passphrase.write_text("a passphrase of the benchmark")
    passphrase.chmod(0o600)
    uri = f"file-kek:{folder}/kek.json?passphrase=file:{passphrase}"
    open_admin(uri, environ={}).create()
    return Envelope(Keyring(MemoryKeyStore(), open_kms(uri, environ={})))


def by_dbsec(ours: Envelope, size: int) -> tuple[Act, Act, int]:
    """Make the calls with one value: each row has its own AAD."""
    plain, first = bytes(size), 1_000_000
    blob = ours.encrypt(plain, PHONE, tenant=TENANT, row=first)

    def encrypt_n(n: int) -> None:
        for row in range(first, first + n):
            ours.encrypt(plain, PHONE, tenant=TENANT, row=row)

    def decrypt_n(n: int) -> None:
        for _ in repeat(None, n):
            ours.decrypt(blob, PHONE, tenant=TENANT, row=first)

    return encrypt_n, decrypt_n, len(blob)


def by_dbsec_in_bulk(ours: Envelope, size: int) -> tuple[Act, Act, int]:
    """Make the calls with 2,000 values of as many rows; they are whole, so ``n`` is a multiple of 2,000."""
    plains, rows = [bytes(size)] * BULK, range(1_000_000, 1_000_000 + BULK)
    blobs = ours.encrypt_many(plains, PHONE, tenant=TENANT, rows=rows)

    def encrypt_n(n: int) -> None:
        for _ in repeat(None, n // BULK):
            ours.encrypt_many(plains, PHONE, tenant=TENANT, rows=rows)

    def decrypt_n(n: int) -> None:
        for _ in repeat(None, n // BULK):
            ours.decrypt_many(blobs, PHONE, tenant=TENANT, rows=rows)

    return encrypt_n, decrypt_n, len(blobs[0])


@contextmanager
def pgcrypto(folder: Path) -> Iterator[dict[str, Make]]:
    """Start PostgreSQL 17 and make pgp_sym_encrypt's calls: many values in one query, as an INSERT ... SELECT does."""
    folder.chmod(0o755)
    clusters = Clusters(folder, 17, account=account.server_account(Silent()), free_port=lambda: ports.free(1)[0])
    try:
        with connect(clusters.create().admin) as session:
            session.execute("CREATE EXTENSION pgcrypto")
            yield {"pgcrypto pgp_sym_encrypt": partial(_by_pgcrypto, session), "": raw} | {}
    finally:
        clusters.close()
