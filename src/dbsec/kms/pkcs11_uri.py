"""RFC 7512: the URI of a key in a PKCS#11 token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from dbsec.errors import ConfigError
from dbsec.kms.uri import KmsUri

_OF_TOKEN = ("token", "manufacturer", "model", "serial")
_TAKEN = (*_OF_TOKEN, "object", "id", "type")
_SECRET_KEY = "secret-key"  # noqa: S105 a class of objects
_LONGEST_ID = 8


@dataclass(frozen=True, slots=True)
class TokenName:
    """Which module, and which token in it; what is empty may be anything."""

    module: Path
    token: str = ""
    manufacturer: str = ""
    model: str = ""
    serial: str = ""

    def matches(self, *, token: str, manufacturer: str, model: str, serial: str) -> bool:
        """Tell whether a token is the one that is meant."""
        wanted = (self.token, self.manufacturer, self.model, self.serial)
        return all(want in ("", is_) for want, is_ in zip(wanted, (token, manufacturer, model, serial), strict=True))

    def __str__(self) -> str:
        return self.token or self.serial


@dataclass(frozen=True, slots=True)
class KeyName:
    """Which keys in a token: those of a label, or the one of an id."""

    token: TokenName
    label: str
    key_id: bytes

    def __str__(self) -> str:
        return f"pkcs11:{self.token}/{self.label or '%' + self.key_id.hex()}"


def parse(uri: KmsUri) -> KeyName:
    """Read what a ``pkcs11:`` URI says; ``pin-source`` is left to the caller.

    Errors: ``ConfigError`` for an attribute that is unknown, given twice or not decodable, for a pin as a value, and
    where token or key stay open. Source: RFC 7512, 2.3 and 2.4.
    """
    if "pin-value" in uri.query:
        raise ConfigError("a pin is given by reference, never by value", hint="write pin-source=file:/path/to/pin")
    uri.only("module-path", "pin-source")
    found = _attributes(uri)
    if found.get("type", _SECRET_KEY.encode()) != _SECRET_KEY.encode():
        raise ConfigError("a KEK is a secret key", hint=f"write type={_SECRET_KEY}, or leave it out")
    if not (found.get("token") or found.get("serial")):
        raise ConfigError("a 'pkcs11:' uri names its token", hint="add token=LABEL")
    if not (found.get("object") or found.get("id")):
        raise ConfigError("a 'pkcs11:' uri names its key", hint="add object=LABEL, or id=%01 for one version alone")
    if len(found.get("id", b"")) > _LONGEST_ID:
        raise ConfigError(f"the id of a KEK has {_LONGEST_ID} bytes at most")
    token = TokenName(_module(uri), **{name: _text(name, found.get(name, b"")) for name in _OF_TOKEN})
    return KeyName(token, _text("object", found.get("object", b"")), found.get("id", b""))


def _attributes(uri: KmsUri) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    if uri.host:
        raise ConfigError("a 'pkcs11:' uri has no host")
    for part in filter(None, uri.path.split(";")):
        name, _, value = part.partition("=")
        if name not in _TAKEN:
            raise ConfigError(
                f"the 'pkcs11:' uri has an unknown attribute '{name}'", hint=f"known: {', '.join(_TAKEN)}"
            )
        if name in found:
            raise ConfigError(f"the 'pkcs11:' uri has '{name}' twice")
        found[name] = unquote_to_bytes(value)
    return found


def _text(name: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        raise ConfigError(f"'{name}' of the 'pkcs11:' uri is no UTF-8") from exc


def _module(uri: KmsUri) -> Path:
    path = Path(uri.required("module-path"))
    if not path.is_absolute() or not path.is_file():
        raise ConfigError(
            f"there is no PKCS#11 module '{path}'", hint="module-path is the whole path to the vendor's library"
        )
    return path
