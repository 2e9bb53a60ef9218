"""A session with a PKCS#11 token: one thread at a time, opened anew after a fork and once after it was lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pkcs11
from pkcs11 import exceptions as said

from dbsec.errors import ConfigError, reason
from dbsec.kms.errors import KmsRefused, KmsUnavailable
from dbsec.kms.pkcs11_uri import TokenName
from dbsec.secret import Secret

T = TypeVar("T")

# SessionReadOnly: who may write asked to; after somebody started the library anew, the handle is another session's.
LOST = (
    said.SessionHandleInvalid, said.SessionClosed, said.UserNotLoggedIn, said.ObjectHandleInvalid,
    said.KeyHandleInvalid, said.DeviceRemoved, said.SessionReadOnly,
)  # fmt: skip
_WRONG_PIN = (said.PinIncorrect, said.PinInvalid, said.PinLenRange, said.PinLocked, said.PinExpired)


class Module:
    """A vendor's library in this process.

    python-pkcs11 initialises it for one thread at a time, so this is where threads wait. It must be initialised in
    each process: a child of fork does so before its first use, and its sessions are new. ``starts`` counts: a handle
    of an earlier start is void, and may by now be another session's. Source: PKCS#11 v3.0, 5.4.
    """

    _loaded: dict[Path, Module] = {}  # noqa: RUF012 the library is there once in a process

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._at_fork = False
        self._lib: Any = None
        self.starts = 0

    @classmethod
    def at(cls, path: Path) -> Module:
        """Return the one object of a library."""
        made = Module(path)
        module = cls._loaded.setdefault(path, made)
        if module is made:
            # A fork in the midst of another thread's call would leave the library's memory half changed.
            os.register_at_fork(before=made._pause, after_in_parent=made._go_on, after_in_child=made._in_child)
        return module

    @contextmanager
    def alone(self, timeout_s: float) -> Iterator[Any]:
        """Yield the library, initialised in this process. Errors: ``KmsUnavailable`` where others hold it too long."""
        if not self._lock.acquire(timeout=timeout_s):
            raise KmsUnavailable(f"the PKCS#11 module '{self._path}' is busy: a call did not return in {timeout_s:g} s")
        try:
            yield self._ready()
        finally:
            self._lock.release()

    def _ready(self) -> Any:
        if self._lib is not None and self._pid != os.getpid():
            self.start_again()
        try:
            self._lib = pkcs11.lib(str(self._path))
        except said.PKCS11Error as exc:
            kind = ConfigError if type(exc) is said.PKCS11Error else KmsUnavailable  # not loaded, or not initialised
            raise kind(f"the PKCS#11 module '{self._path}' does not start: {word(exc)}") from exc
        self._pid = os.getpid()
        return self._lib

    def start_again(self) -> None:
        """End all sessions of this process and initialise the library anew. Errors: ``KmsUnavailable``."""
        self.starts += 1
        try:
            self._lib.reinitialize()
        except said.PKCS11Error as exc:
            raise KmsUnavailable(f"the PKCS#11 module '{self._path}' does not start: {word(exc)}") from exc

    def _pause(self) -> None:
        self._at_fork = self._lock.acquire(timeout=5.0)

    def _go_on(self) -> None:
        if self._at_fork:
            self._at_fork = False
            self._lock.release()

    def _in_child(self) -> None:
        self._at_fork = False
        self._lock = threading.RLock()


class Token:
    """One token, logged in when it is first needed; all KEKs in it share a session."""

    _known: dict[tuple[TokenName, str, bool], Token] = {}  # noqa: RUF012 a login holds for the whole process

    def __init__(self, name: TokenName, pin: Callable[[], Secret], *, timeout_s: float, write: bool) -> None:
        self._name = name
        self._pin = pin
        self._wrong_pin: Secret | None = None
        self._timeout_s = timeout_s
        self._write = write
        self._module = Module.at(name.module)
        self._session: pkcs11.Session | None = None
        self._start = 0
        self._found_keys = False

    @classmethod
    def of(
        cls, name: TokenName, reference: str, pin: Callable[[], Secret], *, timeout_s: float, write: bool = False
    ) -> Token:
        """Return the one object of a token, of the reference to its pin, and of the right to write."""
        made = Token(name, pin, timeout_s=timeout_s, write=write)
        return cls._known.setdefault((name, reference, write), made)

    def __repr__(self) -> str:
        return f"<token '{self._name}'>"

    def run(self, act: Callable[[pkcs11.Session], T]) -> T:
        """Call ``act`` with a session; once more with a new one where the session or the login was lost.

        ``act`` raises ``NoSuchKey`` where it finds no key at all. Errors: ``KmsUnavailable``, ``KmsRefused``.
        """
        with self._module.alone(self._timeout_s) as lib:
            try:
                return self._twice(lib, act)
            except said.NoSuchKey as exc:
                self.must_answer()
                raise KmsRefused(f"token '{self._name}' has no key {exc}", hint="create the KEK first") from exc
            except said.PKCS11Error as exc:
                self._session = None
                raise self._silent(exc) from exc

    def _twice(self, lib: Any, act: Callable[[pkcs11.Session], T]) -> T:
        try:
            return self._once(lib, act)
        except LOST:
            self._session = None
        except said.NoSuchKey:
            # Somebody else in this process may have logged out, and private keys are then not found. Only once:
            # python-pkcs11 leaves a session open where the login was there.
            if not self._found_keys:
                raise
            self._found_keys = False
            self._session = None
        return self._once(lib, act)

    def _once(self, lib: Any, act: Callable[[pkcs11.Session], T]) -> T:
        done = act(self._open(lib))
        self._found_keys = True
        return done

    def must_answer(self) -> None:
        """Ask the token for what it always has: SoftHSM finds no keys where its folder is away.

        Errors: ``KmsUnavailable``.
        """
        assert self._session is not None
        try:
            self._session.token.slot.get_token()
        except said.PKCS11Error as exc:
            self._session = None
            raise self._silent(exc) from exc

    def _silent(self, exc: said.PKCS11Error) -> KmsUnavailable:
        return KmsUnavailable(f"token '{self._name}' does not answer: {word(exc)}")

    def _open(self, lib: Any) -> pkcs11.Session:
        if self._session is None or self._start != self._module.starts:
            self._session = self._log_in(self._find(lib))
            self._start = self._module.starts
        return self._session

    def _find(self, lib: Any) -> pkcs11.Token:
        try:
            found = self._matching(lib)
        except said.PKCS11Error:
            self._module.start_again()  # SoftHSM drops for good a token that was away
            try:
                found = self._matching(lib)
            except said.PKCS11Error as exc:
                raise KmsUnavailable(f"the tokens of '{self._name.module}' do not answer: {word(exc)}") from exc
        if not found:
            raise KmsUnavailable(f"there is no token '{self._name}' in '{self._name.module}'")
        if len(found) > 1:
            raise ConfigError(f"{len(found)} tokens are '{self._name}'", hint="add serial=... to the uri")
        return found[0]

    def _matching(self, lib: Any) -> list[pkcs11.Token]:
        return [token for token in lib.get_tokens() if self._is_mine(token)]

    def _is_mine(self, token: pkcs11.Token) -> bool:
        names = {"manufacturer": token.manufacturer_id, "model": token.model}
        return self._name.matches(token=token.label, serial=token.serial.decode(errors="replace").rstrip(), **names)

    def _log_in(self, token: pkcs11.Token) -> pkcs11.Session:
        pin = self._pin()
        if pin == self._wrong_pin:
            raise self._refused_pin("it was wrong before, and a token locks after some tries")
        session: pkcs11.Session
        try:
            session = token.open(rw=self._write, user_pin=pin.reveal())
        except said.UserAlreadyLoggedIn:  # by another part of this process
            session = token.open(rw=self._write)
        except _WRONG_PIN as exc:
            self._wrong_pin = pin
            raise self._refused_pin(word(exc)) from exc
        return session

    def _refused_pin(self, cause: str) -> KmsRefused:
        return KmsRefused(f"token '{self._name}' does not take the pin", cause_known=cause, hint="correct pin-source")


def word(exc: said.PKCS11Error) -> str:
    """Name an error; most of python-pkcs11's have a class and no text."""
    return reason(exc) if type(exc) is said.PKCS11Error else type(exc).__name__
