"""What the tests of crypto share: a real KEK file, a KMS that counts and can be held at a call, a keyring over both."""

from __future__ import annotations

import os
import secrets
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dbsec import files
from dbsec.crypto import DecryptionFailed, Envelope, Field, Keyring, MemoryKeyStore
from dbsec.crypto.store import KeyStore
from dbsec.kms import Aad, Description, Kms, KmsUnavailable, open_kms
from dbsec.kms.kek_file import Cost
from dbsec.kms.port import NO_AAD
from dbsec.kms.schemes.file_kek import FileKekAdmin
from dbsec.secret import Secret

PHONE = Field("app.users", "phone")
EMAIL = Field("app.users", "email")
ACME = "acme"


class KekFile:
    """A KEK in a file of its own, whose scrypt costs little."""

    def __init__(self, folder: Path, name: str = "kek") -> None:
        passphrase = secrets.token_urlsafe(16)
        files.write_atomic(folder / f"{name}.pass", passphrase)
        self.uri = f"file-kek:{folder}/{name}.json?passphrase=file:{folder}/{name}.pass"
        self.admin = FileKekAdmin(folder / f"{name}.json", lambda: Secret(passphrase), cost=Cost(2**14))
        self.admin.create()

    def open(self) -> Kms:
        return open_kms(self.uri, environ={})


class Watched:
    """Passes every call on to a real KMS; counts the unwraps, holds them in this process, or lets nobody through."""

    def __init__(self, kms: Kms) -> None:
        self._kms = kms
        self._pid = os.getpid()
        self._gate = threading.Event()
        self._gate.set()
        self._to_hold = 0
        self.waiting = threading.Semaphore(0)
        self.away = False
        self.unwrapped = 0

    @contextmanager
    def held(self, most: int = 1000) -> Iterator[None]:
        """Let the next unwraps wait until the block ends; ``waiting.acquire()`` returns once for each that does."""
        self._gate.clear()
        self._to_hold = most
        try:
            yield
        finally:
            self._gate.set()

    def wrap(self, dek: bytes | bytearray, aad: Aad) -> bytes:
        self._pass()
        return self._kms.wrap(dek, aad)

    def unwrap(self, wrapped: bytes, aad: Aad) -> bytearray:
        self._pass()
        self.unwrapped += 1
        if os.getpid() == self._pid and not self._gate.is_set() and self._to_hold:
            self._to_hold -= 1
            self.waiting.release()
            assert self._gate.wait(30), "nobody opened the gate"
        return self._kms.unwrap(wrapped, aad)

    def rewrap(self, wrapped: bytes, aad: Aad) -> bytes:
        self._pass()
        return self._kms.rewrap(wrapped, aad)

    def describe(self, aad: Aad = NO_AAD) -> Description:
        return self._kms.describe(aad)

    def _pass(self) -> None:
        if self.away:
            raise KmsUnavailable("the KMS does not answer")


class Bench:
    """An envelope over a KEK file; ``other()`` is another process's: the same keyring and KMS, nothing cached."""

    def __init__(self, folder: Path, *, store: KeyStore | None = None, kms: Kms | None = None, **settings: Any) -> None:
        self.store = store or MemoryKeyStore()
        self.kms = Watched(kms or KekFile(folder).open())
        self._settings = settings
        self.envelope = self.other()

    def other(self, **settings: Any) -> Envelope:
        return Envelope(Keyring(self.store, self.kms, **{**self._settings, **settings}))

    @property
    def rows(self) -> dict[int, Any]:
        assert isinstance(self.store, MemoryKeyStore)
        return self.store.rows


@dataclass(frozen=True)
class Refusal:
    """All that a caller, a log line or a web framework gets to see of a decryption that failed."""

    kind: type[BaseException]
    text: str
    shown: str
    args: tuple[object, ...]
    hint: str
    exit_code: int
    last_line: str

    @classmethod
    def of(cls, act: Callable[..., object], *args: Any, **told: Any) -> Refusal:
        """Call ``act``, which must raise ``DecryptionFailed``, and return what is seen of it."""
        with pytest.raises(DecryptionFailed) as caught:
            act(*args, **told)
        return cls.seen(caught.value)

    @classmethod
    def seen(cls, exc: DecryptionFailed) -> Refusal:
        assert exc.__cause__ is None
        assert exc.__context__ is None or exc.__suppress_context__, "a framework would show what was wrong"
        last = list(traceback.TracebackException.from_exception(exc).format_exception_only())[-1].strip()
        return cls(type(exc), str(exc), repr(exc), exc.args, exc.hint, exc.exit_code, last)


def the_one_refusal(field: Field) -> Refusal:
    """Return what every failure of a column must look like."""
    return Refusal.seen(DecryptionFailed(str(field)))


def bits(size: int) -> Iterator[tuple[int, int]]:
    """Yield byte and mask of every bit."""
    return ((at, 1 << bit) for at in range(size) for bit in range(8))


def flipped(value: bytes, at: int, mask: int) -> bytes:
    return value[:at] + bytes([value[at] ^ mask]) + value[at + 1 :]
