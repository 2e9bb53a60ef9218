"""``file-kek:/path/kek.json?passphrase=file:/p``: KEKs in a file, for development and small teams.

Shape of a wrapped DEK: ``01``, version of the KEK (4 bytes big-endian), nonce (12), DEK and tag (16) by AES-256-GCM
with ``aad_bytes(aad)`` as AAD: 33 bytes over the DEK.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dbsec import files
from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.errors import ConfigError, UsageError
from dbsec.kms import kek_file
from dbsec.kms.errors import KmsRefused
from dbsec.kms.kek_file import KEY_BYTES, NONCE_BYTES, Cost, KekFile, Passkey
from dbsec.kms.locks import ForkLock
from dbsec.kms.port import NO_AAD, Aad, Description, Destruction, KekState, aad_bytes
from dbsec.kms.schemes import Opening, Scheme
from dbsec.secret import Secret

_HEAD = struct.Struct(">BI")
_WRAP_FORMAT = 1
_TAG_BYTES = 16
_COST = Cost()
_SHORTEST_PASSPHRASE = 12
_NOTES = (
    "for development and small teams: who can read the process, or the file and its passphrase, has the KEK",
    "a copy of the file opens with the passphrase for as long as the copy is kept",
)


@dataclass(frozen=True, slots=True, repr=False)
class _Opened:
    """A file as last read, its KEKs ready for use."""

    stamp: tuple[int, int, int]
    file: KekFile
    ciphers: dict[int, AESGCM]


class FileKek:
    """The KEKs of one file; read at the first call, and again when the file changes. Scrypt runs once."""

    def __init__(self, path: Path, passphrase: Callable[[], Secret]) -> None:
        self._path = path
        self._passphrase = passphrase
        self._passkey: tuple[bytes, Cost, Passkey] | None = None
        self._opened: _Opened | None = None
        self._lock = ForkLock()

    def __repr__(self) -> str:
        return f"<KEK file '{self._path}'>"

    def wrap(self, dek: bytes | bytearray, aad: Aad) -> bytes:
        """Wrap under the newest version."""
        opened = self._usable("wrap")
        version = opened.file.newest.version
        nonce = os.urandom(NONCE_BYTES)
        return _HEAD.pack(_WRAP_FORMAT, version) + nonce + opened.ciphers[version].encrypt(nonce, dek, aad_bytes(aad))

    def unwrap(self, wrapped: bytes, aad: Aad) -> bytearray:
        """Return the DEK; the caller zeroes it after use."""
        opened = self._usable("unwrap")
        body = _HEAD.size + NONCE_BYTES
        if len(wrapped) < body + _TAG_BYTES:
            raise _refusal(opened.file, "unwrap", "it is too short for a wrapped DEK")
        layout, version = _HEAD.unpack_from(wrapped)
        if layout != _WRAP_FORMAT or version not in opened.ciphers:
            raise _refusal(opened.file, "unwrap", f"nothing here has format {layout} and KEK version {version}")
        dek = bytearray(len(wrapped) - body - _TAG_BYTES)
        try:
            opened.ciphers[version].decrypt_into(wrapped[_HEAD.size : body], wrapped[body:], aad_bytes(aad), dek)
        except InvalidTag as exc:
            raise _refusal(opened.file, "unwrap", "another AAD, another KEK or altered bytes") from exc
        return dek

    def rewrap(self, wrapped: bytes, aad: Aad) -> bytes:
        """Wrap the same DEK under the newest version."""
        dek = self.unwrap(wrapped, aad)
        try:
            return self.wrap(dek, aad)
        finally:
            dek[:] = bytes(len(dek))

    def describe(self, aad: Aad = NO_AAD) -> Description:
        """Say what the file holds."""
        return _description(self._read().file)

    def _usable(self, what: str) -> _Opened:
        opened = self._read()
        if opened.file.state is not KekState.ENABLED:
            raise _refusal(opened.file, what, f"it is {opened.file.state}")
        return opened

    def _read(self) -> _Opened:
        with self._lock:
            stamp = _stamp(self._path)
            if self._opened is None or self._opened.stamp != stamp:
                self._opened = None
                self._opened = self._reread(stamp)
            return self._opened

    def _reread(self, stamp: tuple[int, int, int]) -> _Opened:
        file = kek_file.read(self._path, self._passkey_of)
        assert self._passkey is not None
        passkey = self._passkey[2]
        try:
            ciphers = {one.version: passkey.decrypt(one, name=file.name) for one in file.versions}
        except (InvalidTag, ValueError) as exc:
            raise ConfigError(f"the KEK file '{self._path}' is damaged", hint="restore it from its backup") from exc
        return _Opened(stamp, file, ciphers)

    def _passkey_of(self, salt: bytes, cost: Cost) -> Passkey:
        if self._passkey is None or self._passkey[:2] != (salt, cost):
            self._passkey = (salt, cost, Passkey(self._passphrase(), salt, cost))
        return self._passkey[2]


class FileKekAdmin:
    """Makes, rotates and ends the KEK of one file; writers wait for each other."""

    def __init__(
        self, path: Path, passphrase: Callable[[], Secret], *, clock: Clock = SYSTEM, cost: Cost = _COST
    ) -> None:
        self._path = path
        self._passphrase = passphrase
        self._clock = clock
        self._cost = cost

    def __repr__(self) -> str:
        return f"<administrator of the KEK file '{self._path}'>"

    def create(self) -> Description:
        """Make the file with version 1. Errors: ``KmsRefused`` where it is there, also as a tombstone."""
        passphrase = self._passphrase()
        if len(passphrase.reveal()) < _SHORTEST_PASSPHRASE:
            raise UsageError(f"the passphrase of a KEK file has {_SHORTEST_PASSPHRASE} characters at least")
        with self._alone():
            if self._path.exists():
                raise KmsRefused(f"the KEK file '{self._path}' is there already")
            now, salt, name = rfc3339(self._clock.now()), os.urandom(16), secrets.token_hex(8)
            passkey = Passkey(passphrase, salt, self._cost)
            first = passkey.encrypt(os.urandom(KEY_BYTES), name=name, version=1, created_at=now)
            file = KekFile(name, KekState.ENABLED, now, self._cost, salt, (first,))
            kek_file.write(self._path, file, passkey)
            return _description(file)

    def rotate(self) -> Description:
        """Add a version, which wraps from now on."""

        def added(file: KekFile, passkey: Passkey) -> KekFile:
            now, version = rfc3339(self._clock.now()), file.newest.version + 1
            new = passkey.encrypt(os.urandom(KEY_BYTES), name=file.name, version=version, created_at=now)
            return replace(file, versions=(*file.versions, new))

        return self._change("rotate", KekState.ENABLED, added)

    def disable(self) -> Description:
        """Refuse wrap and unwrap until it is enabled again."""
        return self._change("disable", KekState.ENABLED, lambda file, _: replace(file, state=KekState.DISABLED))

    def enable(self) -> Description:
        """Take ``disable`` back."""
        return self._change("enable", KekState.DISABLED, lambda file, _: replace(file, state=KekState.ENABLED))

    def destroy(self) -> Destruction:
        """Overwrite every version and leave a tombstone."""
        with self._alone():
            file, passkey = self._read()
            if file.state is KekState.DESTROYED:
                raise _refusal(file, "destroy", "it is destroyed")
            now = self._clock.now()
            kek_file.bury(self._path, file, passkey, at=rfc3339(now))
            return Destruction(now, "copies and backups of the file still open with the passphrase: delete them too")

    def _change(self, what: str, wanted: KekState, act: Callable[[KekFile, Passkey], KekFile]) -> Description:
        with self._alone():
            file, passkey = self._read()
            if file.state is not wanted:
                raise _refusal(file, what, f"it is {file.state}")
            changed = act(file, passkey)
            kek_file.write(self._path, changed, passkey)
            return _description(changed)

    def _read(self) -> tuple[KekFile, Passkey]:
        made: list[Passkey] = []

        def passkey_of(salt: bytes, cost: Cost) -> Passkey:
            made.append(Passkey(self._passphrase(), salt, cost))
            return made[0]

        return kek_file.read(self._path, passkey_of), made[0]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                stack.enter_context(files.locked(self._path.with_name(f".{self._path.name}.lock")))
            except OSError as exc:
                raise UsageError(f"cannot write beside the KEK file '{self._path}': {exc.strerror}") from exc
            yield


def _stamp(path: Path) -> tuple[int, int, int]:
    """Tell one state of a file from another; what cannot be looked at is told by reading it."""
    try:
        seen = path.stat()
    except OSError:
        return (0, 0, 0)
    return seen.st_ino, seen.st_mtime_ns, seen.st_size


def _refusal(file: KekFile, what: str, cause: str) -> KmsRefused:
    return KmsRefused(f"'file-kek:{file.name}' refuses to {what}", cause_known=cause)


def _description(file: KekFile) -> Description:
    version = str(file.newest.version) if file.versions else ""
    return Description("file-kek", f"file-kek:{file.name}", version, file.state, "file", notes=_NOTES)


def _path_of(opening: Opening) -> Path:
    opening.uri.only("passphrase")
    path = unquote(opening.uri.path)
    if opening.uri.host or not path:
        raise ConfigError("a 'file-kek:' uri is a path", hint="write file-kek:/path/to/kek.json?passphrase=file:/path")
    opening.secret("passphrase")
    return Path(path)


def _open(opening: Opening) -> FileKek:
    return FileKek(_path_of(opening), lambda: opening.secret("passphrase"))


def _open_admin(opening: Opening) -> FileKekAdmin:
    return FileKekAdmin(_path_of(opening), lambda: opening.secret("passphrase"), clock=opening.clock)


SCHEME = Scheme("file-kek", _open, _open_admin)
