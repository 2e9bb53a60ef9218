"""``vault-transit://host:port/MOUNT/KEY``: a KEK in the Transit engine of OpenBao or HashiCorp Vault.

A DEK is bound by deriving the wrapping key from the AAD (``context``), so the key has to be ``derived``: on any other
the server takes a context and ignores it. ``associated_data`` would bind too, but then nothing can be rewrapped.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from dbsec.clock import Clock
from dbsec.kms.errors import KmsError, KmsRefused, KmsUnavailable
from dbsec.kms.port import NO_AAD, Aad, Description, Destruction, KekState, aad_bytes
from dbsec.kms.schemes import Opening, Scheme
from dbsec.kms.schemes._transit_key import SCHEME_NAME, TransitKey, of_uri
from dbsec.kms.schemes._wrapped import packed, unpacked
from dbsec.vault import Body, VaultError, VaultNotFound, VaultRefused, VaultUnavailable, part

R = TypeVar("R", bytes, bytearray)
_CHECK_S = 300.0
# OpenBao refuses a body with more than 1000 strings, names counted; an item here has four.
_BATCH = 249
# No type that a server knows: to a key that is there it says nothing, and one that is not there is not made by it.
_NEVER_MAKE = "dbsec-makes-no-key"


class Transit:
    """Wraps by the key of one name."""

    def __init__(self, key: TransitKey, clock: Clock) -> None:
        self._key = key
        self._clock = clock
        self._checked_until = float("-inf")

    def __repr__(self) -> str:
        return f"<KEK {self._key.kek}>"

    def wrap(self, dek: bytes | bytearray, aad: Aad) -> bytes:
        """Wrap a DEK under the newest version of the KEK."""
        body = {"plaintext": _base64(dek), "context": _base64(aad_bytes(aad)), "type": _NEVER_MAKE}
        try:
            return self._asked("wrap", "encrypt", body, _wrap)
        except KmsRefused as exc:
            if _NEVER_MAKE in exc.cause_known:  # the key has gone since it was checked
                self._key.told()
            raise

    def unwrap(self, wrapped: bytes, aad: Aad) -> bytearray:
        """Return the DEK; its base64 text, which Python cannot wipe, goes with the answer."""
        return self._asked("unwrap", "decrypt", _item(wrapped, aad), _dek)

    def rewrap(self, wrapped: bytes, aad: Aad) -> bytes:
        """Wrap the same DEK under the newest version of the KEK; it does not leave the server for that."""
        return self._asked("rewrap", "rewrap", _item(wrapped, aad), _wrap)

    def describe(self, aad: Aad = NO_AAD) -> Description:
        """Ask the server for the key."""
        return self._key.description()

    def wrap_many(self, items: Sequence[tuple[bytes, Aad]]) -> list[bytes | KmsError]:
        """Wrap each, in batches as large as the server takes."""
        asked: list[Body] = [{"plaintext": _base64(dek), "context": _base64(aad_bytes(aad))} for dek, aad in items]
        answers = self._answers("wrap", "encrypt", asked)
        if any(_NEVER_MAKE in one.cause_known for one in answers if isinstance(one, KmsRefused)):
            self._key.told()  # the key has gone since it was checked: this says so
        return [one if isinstance(one, KmsError) else self._one("wrap", one, _wrap) for one in answers]

    def unwrap_many(self, items: Sequence[tuple[bytes, Aad]]) -> list[bytearray | KmsError]:
        """Unwrap each, in batches as large as the server takes."""
        return self._many("unwrap", "decrypt", items, _dek)

    def rewrap_many(self, items: Sequence[tuple[bytes, Aad]]) -> list[bytes | KmsError]:
        """Rewrap each, in batches as large as the server takes."""
        return self._many("rewrap", "rewrap", items, _wrap)

    def _asked(self, what: str, verb: str, body: Body, result: Callable[[Body], R]) -> R:
        self._check()
        with self._key.asking(what):
            return result(part(self._key.vault.write(self._key.to(verb), body), "data"))

    def _check(self) -> None:
        """Refuse a key that does not bind; asked again now and then, for a name can come to mean another key."""
        if self._clock.monotonic() < self._checked_until:
            return
        if not self._key.told().get("derived"):
            raise KmsRefused(
                f"the key '{self._key.kek}' is not derived: the server would ignore what a DEK is bound to",
                hint=f"{self._key.making(self._key.name + '-derived')}, and name that key in the uri",
            )
        self._checked_until = self._clock.monotonic() + _CHECK_S

    def _many(
        self, what: str, verb: str, items: Sequence[tuple[bytes, Aad]], result: Callable[[Body], R]
    ) -> list[R | KmsError]:
        done: dict[int, R | KmsError] = {}
        asked: dict[int, Body] = {}
        for at, (wrapped, aad) in enumerate(items):
            try:
                asked[at] = _item(wrapped, aad)
            except KmsRefused as exc:
                done[at] = exc
        answers = self._answers(what, verb, list(asked.values()))
        for at, answer in zip(asked, answers, strict=True):
            done[at] = answer if isinstance(answer, KmsError) else self._one(what, answer, result)
        return [done[at] for at in range(len(items))]

    def _one(self, what: str, answer: Body, result: Callable[[Body], R]) -> R | KmsError:
        if answer.get("error"):
            return KmsRefused(f"'{self._key.kek}' refuses to {what}", cause_known=str(answer["error"]))
        try:
            return result(answer)
        except VaultError as exc:
            return self._key.as_kms_error(exc, what)

    def _answers(self, what: str, verb: str, asked: list[Body]) -> list[Body | KmsError]:
        """Ask batch by batch; after one without an answer nobody waits for the rest."""
        answers: list[Body | KmsError] = []
        size = _BATCH
        while asked:
            batch, rest = asked[:size], asked[size:]
            try:
                self._check()
                never = {"type": _NEVER_MAKE} if verb == "encrypt" else {}
                answer = self._key.vault.write(self._key.to(verb), {"batch_input": batch, **never})
                answers += _as_many(part(answer, "data", "batch_results"), batch)
            except VaultError as exc:
                if _too_large(exc) and size > 1:
                    size = max(1, len(batch) // 2)
                    continue
                error = self._key.as_kms_error(exc, what)
            except KmsError as exc:
                error = exc
            else:
                asked = rest
                continue
            failed = asked if isinstance(error, KmsUnavailable) else batch
            answers += [error] * len(failed)
            asked = asked[len(failed) :]
        return answers


class TransitAdmin:
    """The life of the key of one name."""

    def __init__(self, key: TransitKey, clock: Clock) -> None:
        self._key = key
        self._clock = clock

    def __repr__(self) -> str:
        return f"<admin of KEK {self._key.kek}>"

    def create(self) -> Description:
        """Make the key: AES-256-GCM, derived, not exportable. Errors: ``KmsRefused`` where one is there."""
        if self._is_there():
            raise KmsRefused(f"there is a key '{self._key.kek}' already")
        self._write("create", self._key.itself, {"type": "aes256-gcm96", "derived": True, "exportable": False})
        return self._key.description()

    def rotate(self) -> Description:
        """Add a version, which wraps from now on."""
        if self._key.description().state is not KekState.ENABLED:
            raise KmsRefused(f"'{self._key.kek}' is disabled", hint="enable it first")
        self._write("rotate", f"{self._key.itself}/rotate")
        return self._key.description()

    def disable(self) -> Description:
        """Refuse wrap and unwrap: OpenBao's soft deletion. Errors: ``KmsRefused`` on a server without it (Vault)."""
        self._key.told()
        try:
            self._key.vault.delete(f"{self._key.itself}/soft-delete")
        except VaultError as exc:
            raise self._without_soft_deletion(exc, "disable") from exc
        return self._in_state(KekState.DISABLED, "disable")

    def enable(self) -> Description:
        """Take ``disable`` back."""
        self._key.told()
        try:
            self._key.vault.write(f"{self._key.itself}/soft-delete-restore")
        except VaultError as exc:
            raise self._without_soft_deletion(exc, "enable") from exc
        return self._in_state(KekState.ENABLED, "enable")

    def destroy(self) -> Destruction:
        """Delete every version of the key, at once."""
        self._write("destroy", f"{self._key.itself}/config", {"deletion_allowed": True})
        with self._key.asking("destroy"):
            self._key.vault.delete(self._key.itself)
        if self._is_there():
            raise KmsRefused(f"'{self._key.kek}' is still there after its deletion")
        note = "gone at once; a snapshot of the server's storage that was taken before still holds it"
        return Destruction(self._clock.now(), note)

    def _write(self, what: str, path: str, body: Body | None = None) -> None:
        with self._key.asking(what):
            self._key.vault.write(path, body)

    def _is_there(self) -> bool:
        with self._key.asking("describe"):
            try:
                self._key.vault.read(self._key.itself)
            except VaultNotFound:
                return False
        return True

    def _without_soft_deletion(self, exc: VaultError, what: str) -> KmsError:
        if isinstance(exc, VaultNotFound):
            hint = f'deny it: path "{self._key.mount}/+/{self._key.name}" {{ capabilities = ["deny"] }}'
            return KmsRefused(f"this server cannot {what} a Transit key: it has no soft deletion", hint=hint)
        return self._key.as_kms_error(exc, what)

    def _in_state(self, state: KekState, what: str) -> Description:
        """Return the description, for the server says yes to a soft deletion of nothing too."""
        told = self._key.description()
        if told.state is not state:
            raise KmsRefused(f"'{self._key.kek}' did not {what}", cause_known=f"it is {told.state}")
        return told


def _item(wrapped: bytes, aad: Aad) -> Body:
    return {"ciphertext": unpacked(wrapped), "context": _base64(aad_bytes(aad))}


def _dek(answer: Body) -> bytearray:
    return bytearray(base64.b64decode(part(answer, "plaintext")))


def _wrap(answer: Body) -> bytes:
    return packed(part(answer, "ciphertext"))


def _as_many(answers: list[Body], asked: list[Body]) -> list[Body]:
    if len(answers) != len(asked):
        raise VaultUnavailable(f"{len(answers)} answers to {len(asked)} items")
    return answers


def _base64(raw: bytes | bytearray) -> str:
    return binascii.b2a_base64(raw, newline=False).decode()


def _too_large(exc: VaultError) -> bool:
    return isinstance(exc, VaultRefused) and ("complexity" in exc.answer or exc.status == 413)


def _open(opening: Opening) -> Transit:
    return Transit(of_uri(opening), opening.clock)


def _open_admin(opening: Opening) -> TransitAdmin:
    return TransitAdmin(of_uri(opening), opening.clock)


SCHEME = Scheme(SCHEME_NAME, _open, _open_admin)
