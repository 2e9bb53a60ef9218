"""The file of a ``file-kek:`` KEK: its format, what protects it, and reading and writing it whole.

Shape: JSON with ``dbsec`` "file-kek", ``format`` 1, ``name`` (16 hex digits), ``state``, ``created_at``,
``destroyed_at``, ``scrypt`` (``n``, ``r``, ``p``, ``salt``), ``versions`` (``version``, ``created_at``, ``nonce``,
``kek``) and ``mac``; bytes in base64. Scrypt of the passphrase gives 64 bytes: an AES-256-GCM key that encrypts each
KEK (AAD: name and version) and an HMAC-SHA-256 key for ``mac``, over the canonical JSON of all the rest.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from dbsec import files
from dbsec.canonical import json_bytes, length_prefixed
from dbsec.errors import ConfigError, NewerFormat, UsageError
from dbsec.kms.errors import KmsRefused, KmsUnavailable
from dbsec.kms.port import KekState
from dbsec.secret import Secret

MAGIC = "file-kek"
FORMAT = 1
KEY_BYTES = 32
NONCE_BYTES = 12
# Below, a guess is too cheap; above, the file makes its reader take more than 1 GiB.
_COSTS = range(2**14, 2**20 + 1)
_LARGEST_FILE = 10_000_000


@dataclass(frozen=True, slots=True)
class Cost:
    """Scrypt's parameters; memory is 128 * n * r bytes. Source: RFC 7914; OWASP Password Storage Cheat Sheet."""

    n: int = 2**17
    r: int = 8
    p: int = 1

    @property
    def bearable(self) -> bool:
        """Tell whether a reader should go along with it."""
        return self.n in _COSTS and self.r == 8 and self.p in range(1, 17)


@dataclass(frozen=True, slots=True)
class Version:
    """A KEK as it stands in the file: encrypted."""

    version: int
    created_at: str
    nonce: bytes
    kek: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KekFile:
    """What the file says, its ``mac`` checked."""

    name: str
    state: KekState
    created_at: str
    cost: Cost
    salt: bytes = field(repr=False)
    versions: tuple[Version, ...]
    destroyed_at: str | None = None

    @property
    def newest(self) -> Version:
        """Return the version that wraps; a destroyed KEK has none."""
        return self.versions[-1]


class Passkey:
    """What the passphrase gives: it encrypts the KEKs of a file and vouches for the file."""

    def __init__(self, passphrase: Secret, salt: bytes, cost: Cost) -> None:
        both = bytearray(2 * KEY_BYTES)
        scrypt = Scrypt(salt=salt, length=len(both), n=cost.n, r=cost.r, p=cost.p)
        scrypt.derive_into(passphrase.reveal().encode(), both)
        self._cipher = AESGCM(both[:KEY_BYTES])
        self._mac = HMAC(both[KEY_BYTES:], SHA256())
        both[:] = bytes(len(both))

    def encrypt(self, kek: bytes | bytearray, *, name: str, version: int, created_at: str) -> Version:
        """Make the record of a new version."""
        nonce = os.urandom(NONCE_BYTES)
        return Version(version, created_at, nonce, self._cipher.encrypt(nonce, kek, _bound(name, version)))

    def decrypt(self, record: Version, *, name: str) -> AESGCM:
        """Return the KEK as a cipher. Errors: ``InvalidTag``."""
        kek = bytearray(KEY_BYTES)
        try:
            self._cipher.decrypt_into(record.nonce, record.kek, _bound(name, record.version), kek)
            return AESGCM(kek)
        finally:
            kek[:] = bytes(KEY_BYTES)

    def mac(self, document: dict[str, Any]) -> bytes:
        """Compute what vouches for a document."""
        state = self._mac.copy()
        state.update(json_bytes(document))
        return state.finalize()

    def verify(self, document: dict[str, Any], mac: bytes) -> None:
        """Check what vouches for a document. Errors: ``InvalidSignature``."""
        state = self._mac.copy()
        state.update(json_bytes(document))
        state.verify(mac)


def _bound(name: str, version: int) -> bytes:
    return length_prefixed([b"dbsec/file-kek/1", name.encode(), str(version).encode()])


PasskeyOf: TypeAlias = Callable[[bytes, Cost], Passkey]


def read(path: Path, passkey_of: PasskeyOf) -> KekFile:
    """Read and check a file; ``passkey_of`` gets its salt and cost.

    Errors: ``KmsRefused`` where it is not there or another passphrase made it, ``ConfigError`` where it is damaged or
    others may read it, ``NewerFormat``, ``KmsUnavailable`` where the disk does not answer.
    """
    document = _document(path, _private_bytes(path))
    cost, salt = _cost(path, document)
    passkey = passkey_of(salt, cost)
    try:
        mac = _bytes(document.pop("mac"))
        passkey.verify(document, mac)
        made = (
            Version(one["version"], one["created_at"], _bytes(one["nonce"]), _bytes(one["kek"]))
            for one in document["versions"]
        )
        return KekFile(
            document["name"],
            KekState(document["state"]),
            document["created_at"],
            cost,
            salt,
            tuple(made),
            document["destroyed_at"],
        )
    except InvalidSignature as exc:
        raise KmsRefused(
            f"the KEK file '{path}' does not open", cause_known="another passphrase made it, or it was altered"
        ) from exc
    except (KeyError, TypeError, ValueError) as exc:
        raise _damaged(path) from exc


def write(path: Path, kek: KekFile, passkey: Passkey) -> None:
    """Replace a file, or make it, with mode 0600."""
    document = {
        "dbsec": MAGIC,
        "format": FORMAT,
        "name": kek.name,
        "state": kek.state.value,
        "created_at": kek.created_at,
        "destroyed_at": kek.destroyed_at,
        "scrypt": {**asdict(kek.cost), "salt": _text(kek.salt)},
        "versions": [{**asdict(one), "nonce": _text(one.nonce), "kek": _text(one.kek)} for one in kek.versions],
    }
    mac = _text(passkey.mac(document))
    try:
        files.write_atomic(path, json.dumps({**document, "mac": mac}, indent=2) + "\n")
    except OSError as exc:
        raise UsageError(f"cannot write the KEK file '{path}': {exc.strerror}") from exc


def bury(path: Path, kek: KekFile, passkey: Passkey, *, at: str) -> None:
    """Leave a tombstone in place of the KEKs, and overwrite the bytes of the file that held them."""
    with path.open("r+b") as old:
        write(path, replace(kek, state=KekState.DESTROYED, versions=(), destroyed_at=at), passkey)
        old.write(bytes(os.fstat(old.fileno()).st_size))
        old.flush()
        os.fsync(old.fileno())


def _private_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            if mode & 0o077:
                raise ConfigError(
                    f"KEK file '{path}' has mode {mode:04o}: others may read it", hint=f"chmod 600 {path}"
                )
            return stream.read(_LARGEST_FILE)
    except FileNotFoundError as exc:
        raise KmsRefused(f"there is no KEK file '{path}'", hint="create the KEK first") from exc
    except (IsADirectoryError, NotADirectoryError, PermissionError) as exc:
        raise KmsRefused(f"cannot read the KEK file '{path}'", cause_known=str(exc.strerror)) from exc
    except OSError as exc:
        raise KmsUnavailable(f"the KEK file '{path}' cannot be read now: {exc.strerror}") from exc


def _document(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except ValueError as exc:
        raise _damaged(path) from exc
    if not isinstance(document, dict) or document.get("dbsec") != MAGIC or type(document.get("format")) is not int:
        raise ConfigError(f"'{path}' is no KEK file")
    if document["format"] > FORMAT:
        raise NewerFormat(f"the KEK file '{path}'", found=document["format"], known=FORMAT)
    return document


def _cost(path: Path, document: dict[str, Any]) -> tuple[Cost, bytes]:
    try:
        given = document["scrypt"]
        cost, salt = Cost(given["n"], given["r"], given["p"]), _bytes(given["salt"])
    except (KeyError, TypeError, ValueError) as exc:
        raise _damaged(path) from exc
    if not cost.bearable or len(salt) < 16:
        raise ConfigError(f"the KEK file '{path}' asks for scrypt with n={cost.n} r={cost.r} p={cost.p}: out of bounds")
    return cost, salt


def _damaged(path: Path) -> ConfigError:
    return ConfigError(f"the KEK file '{path}' is damaged", hint="restore it from its backup")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
