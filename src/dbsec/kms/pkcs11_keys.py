"""The versions of one KEK in a token: keys with one label, told apart by their CKA_ID."""

from __future__ import annotations

from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11 import exceptions as said

from dbsec.kms.errors import KmsRefused
from dbsec.kms.pkcs11_uri import KeyName
from dbsec.kms.port import Description, KekState

USES = (Attribute.ENCRYPT, Attribute.DECRYPT)
_NOTES = (
    "a call into the module has no time-out, and the calls of a process wait for each other",
    "a login holds for the whole process",
    "the port does not tell whether the module is validated for FIPS",
)


def number(key_id: bytes) -> int:
    """Read a CKA_ID as the number of a version."""
    return int.from_bytes(key_id, "big")


def all_of(session: pkcs11.Session, name: KeyName) -> dict[bytes, Any]:
    """Return the versions of a KEK by CKA_ID, the newest one last.

    Errors: ``KmsRefused`` where two keys are one version.
    """
    wanted: dict[Attribute, object] = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES}
    if name.label:
        wanted[Attribute.LABEL] = name.label
    if name.key_id:
        wanted[Attribute.ID] = name.key_id
    found = [(key[Attribute.ID], key) for key in session.get_objects(wanted)]
    if len({number(key_id) for key_id, _ in found}) < len(found):
        raise KmsRefused(f"'{name}' is ambiguous", cause_known="two keys have the same label and id")
    return dict(sorted(found, key=lambda one: number(one[0])))


def newest(session: pkcs11.Session, name: KeyName) -> Any:
    """Return the version that wraps. Errors: ``NoSuchKey``."""
    keys = list(all_of(session, name).values())
    if not keys:
        raise missing(name)
    return keys[-1]


def enabled(key: Any) -> bool:
    """Tell whether a version may wrap and unwrap."""
    return all(key[use] for use in USES)


def described(key: Any, name: KeyName) -> Description:
    """Say what a version is."""
    software = "softhsm" in key.session.token.manufacturer_id.lower()
    notes = ("SoftHSM keeps keys in files: not for production", *_NOTES) if software else _NOTES
    return Description(
        scheme="pkcs11",
        kek=str(name),
        version=str(number(key[Attribute.ID])),
        state=KekState.ENABLED if enabled(key) else KekState.DISABLED,
        protection="software" if software else "hsm",
        notes=notes,
    )


def missing(name: KeyName) -> said.NoSuchKey:
    """Say that a token has no version at all."""
    return said.NoSuchKey(f"'{name.label or name.key_id.hex()}'")
