"""``pkcs11:token=T;object=LABEL?module-path=/…/lib.so&pin-source=file:/p``: KEKs that never leave a token.

The label is the KEK, the CKA_ID (a number, big-endian) its version; the highest one wraps. With ``id=`` that version
alone is used. Shape of a wrapped DEK: ``01``, length of the CKA_ID, the CKA_ID, nonce (12), DEK and tag (16) by
CKM_AES_GCM inside the token with ``aad_bytes(aad)`` as AAD: 31 bytes over the DEK with an id of one byte.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag
from pkcs11 import exceptions as said

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ConfigError
from dbsec.kms.errors import KmsError, KmsRefused, KmsUnavailable
from dbsec.kms.pkcs11_keys import USES, all_of, described, enabled, missing, newest, number
from dbsec.kms.pkcs11_token import LOST, Token, word
from dbsec.kms.pkcs11_uri import KeyName, parse
from dbsec.kms.port import NO_AAD, Aad, Description, Destruction, KekState, aad_bytes
from dbsec.kms.schemes import Opening, Scheme

T = TypeVar("T")
_WRAP_FORMAT = 1
_NONCE_BYTES = 12
_TAG_BYTES = 16
_STAYS = {Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
_ALTERED = "another AAD, another KEK or altered bytes"


class Pkcs11Kek:
    """The versions of one KEK in a token; found anew for each call, so that a rotation is seen at once."""

    def __init__(self, token: Token, name: KeyName) -> None:
        self._token = token
        self._name = name

    def __repr__(self) -> str:
        return f"<KEK '{self._name}'>"

    def wrap(self, dek: bytes | bytearray, aad: Aad) -> bytes:
        """Wrap under the newest version. Errors: ``KmsRefused`` too where that key can leave the token."""

        def act(session: pkcs11.Session) -> bytes:
            key = self._enabled("wrap", newest(session, self._name))
            if key[Attribute.EXTRACTABLE] or not key[Attribute.SENSITIVE]:
                raise self._refusal("wrap", "the key can leave the token")
            params = GCMParams(os.urandom(_NONCE_BYTES), aad_bytes(aad), 8 * _TAG_BYTES)
            try:
                made: bytes = key.encrypt(bytes(dek), mechanism=Mechanism.AES_GCM, mechanism_param=params)
            except LOST:
                raise
            except said.PKCS11Error as exc:
                raise self._judge("wrap", word(exc)) from exc
            key_id: bytes = key[Attribute.ID]
            return bytes([_WRAP_FORMAT, len(key_id)]) + key_id + params.nonce + made

        return self._token.run(act)

    def unwrap(self, wrapped: bytes, aad: Aad) -> bytearray:
        """Return the DEK; the caller zeroes it after use."""
        key_id, nonce, body = self._parts(wrapped)
        params = GCMParams(nonce, aad_bytes(aad), 8 * _TAG_BYTES)

        def act(session: pkcs11.Session) -> bytearray:
            keys = all_of(session, self._name)
            if not keys:
                raise missing(self._name)
            if key_id not in keys:
                raise self._refusal("unwrap", f"no key here has the id {key_id.hex()}")
            try:
                dek = self._enabled("unwrap", keys[key_id]).decrypt(
                    body, mechanism=Mechanism.AES_GCM, mechanism_param=params
                )
            except LOST:
                raise
            except said.PKCS11Error as exc:
                raise self._judge("unwrap", f"{_ALTERED} ({word(exc)})") from exc
            return bytearray(dek)

        return self._token.run(act)

    def rewrap(self, wrapped: bytes, aad: Aad) -> bytes:
        """Wrap the same DEK under the newest version."""
        dek = self.unwrap(wrapped, aad)
        try:
            return self.wrap(dek, aad)
        finally:
            dek[:] = bytes(len(dek))

    def describe(self, aad: Aad = NO_AAD) -> Description:
        """Say which version wraps, and where."""
        return self._token.run(lambda session: described(newest(session, self._name), self._name))

    def _parts(self, wrapped: bytes) -> tuple[bytes, bytes, bytes]:
        """Take a wrapped DEK apart: CKA_ID, nonce, the rest."""
        if len(wrapped) < 2 or wrapped[0] != _WRAP_FORMAT:
            raise self._refusal("unwrap", "it has no format that is known here")
        at = 2 + wrapped[1]
        if len(wrapped) < at + _NONCE_BYTES + _TAG_BYTES:
            raise self._refusal("unwrap", "it is too short for a wrapped DEK")
        return wrapped[2:at], wrapped[at : at + _NONCE_BYTES], wrapped[at + _NONCE_BYTES :]

    def _enabled(self, what: str, key: Any) -> Any:
        if not enabled(key):  # python-pkcs11 gives such a key no method to encrypt
            raise self._refusal(what, "it is disabled")
        return key

    def _judge(self, what: str, cause: str) -> KmsError:
        """Tell apart what SoftHSM answers alike: a wrong AAD, and a token that is away."""
        try:
            self._token.must_answer()
        except KmsUnavailable as away:
            return away
        return self._refusal(what, cause)

    def _refusal(self, what: str, cause: str) -> KmsRefused:
        return KmsRefused(f"'{self._name}' refuses to {what}", cause_known=cause)


class Pkcs11Admin:
    """Makes, rotates and ends the versions of one KEK, in a session that may write."""

    def __init__(self, token: Token, name: KeyName, *, clock: Clock = SYSTEM) -> None:
        self._token = token
        self._name = name
        self._clock = clock

    def __repr__(self) -> str:
        return f"<administrator of '{self._name}'>"

    def create(self) -> Description:
        """Generate version 1 in the token. Errors: ``KmsRefused`` where a version is there."""

        def act(session: pkcs11.Session) -> Description:
            if all_of(session, self._name):
                raise KmsRefused(f"'{self._name}' is there already")
            return self._generate(session, self._name.key_id or b"\x01")

        return self._run(act)

    def rotate(self) -> Description:
        """Generate the next version in the token."""
        if self._name.key_id:
            raise ConfigError("a uri with an id is one version, and cannot be rotated", hint="leave id= out of the uri")

        def act(session: pkcs11.Session) -> Description:
            key = newest(session, self._name)
            if described(key, self._name).state is not KekState.ENABLED:
                raise KmsRefused(f"'{self._name}' refuses to rotate", cause_known="it is disabled")
            last = key[Attribute.ID]
            following = number(last) + 1
            return self._generate(session, following.to_bytes(max(len(last), (following.bit_length() + 7) // 8), "big"))

        return self._run(act)

    def disable(self) -> Description:
        """Take the right to encrypt and to decrypt from each version."""
        return self._allow(False)

    def enable(self) -> Description:
        """Take ``disable`` back."""
        return self._allow(True)

    def destroy(self) -> Destruction:
        """Delete each version from the token."""

        def act(session: pkcs11.Session) -> None:
            newest(session, self._name)
            for key in all_of(session, self._name).values():
                key.destroy()

        self._run(act)
        return Destruction(self._clock.now(), "a backup of the token made before still holds the keys")

    def _generate(self, session: pkcs11.Session, key_id: bytes) -> Description:
        if not self._name.label:
            raise ConfigError("a new key needs a label", hint="add object=LABEL to the uri")
        key = session.generate_key(
            KeyType.AES,
            256,
            label=self._name.label,
            id=key_id,
            store=True,
            capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
            template=_STAYS,
        )
        try:
            all_of(session, self._name)
        except KmsRefused:  # another administrator made the same version meanwhile
            key.destroy()
            raise
        return described(key, self._name)

    def _allow(self, allowed: bool) -> Description:
        def act(session: pkcs11.Session) -> Description:
            last = newest(session, self._name)
            for key in all_of(session, self._name).values():
                for use in USES:
                    key[use] = allowed
            return described(last, self._name)

        return self._run(act)

    def _run(self, act: Callable[[pkcs11.Session], T]) -> T:
        def judged(session: pkcs11.Session) -> T:
            try:
                return act(session)
            except (said.AttributeReadOnly, said.FunctionRejected, said.TokenWriteProtected) as exc:
                raise KmsRefused(f"token '{self._name.token}' refuses the change", cause_known=word(exc)) from exc

        return self._token.run(judged)


def _token(opening: Opening, *, write: bool) -> tuple[Token, KeyName]:
    name = parse(opening.uri)
    opening.secret("pin-source")
    reference = opening.uri.required("pin-source")
    pin = lambda: opening.secret("pin-source")  # noqa: E731
    return Token.of(name.token, reference, pin, timeout_s=opening.patience.timeout_s, write=write), name


def _open(opening: Opening) -> Pkcs11Kek:
    return Pkcs11Kek(*_token(opening, write=False))


def _open_admin(opening: Opening) -> Pkcs11Admin:
    return Pkcs11Admin(*_token(opening, write=True), clock=opening.clock)


SCHEME = Scheme("pkcs11", _open, _open_admin)
