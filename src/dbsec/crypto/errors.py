"""What can go wrong with an encrypted value; a failed decryption has one class and one message, whatever the cause."""

from __future__ import annotations

from dbsec.errors import DbsecError, UsageError


class CryptoError(DbsecError):
    """The root of this pillar's errors; none of them holds a key or a plaintext."""


class DecryptionFailed(CryptoError):
    """A value that its key did not encrypt for this place.

    The message names the column and nothing else: what was wrong (key, nonce, tag, row, tenant, format) is not told
    apart. ``key_id`` is what the value's header says, None where it has none.
    """

    exit_code = 1

    def __init__(self, field: str, *, key_id: int | None = None) -> None:
        super().__init__(f"a value of '{field}' cannot be decrypted", hint="dbsec crypto inspect")
        self.field = field
        self.key_id = key_id

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (self.field, self.key_id)  # what pickle would do by itself takes the message for the field


def _again(field: str, key_id: int | None) -> DecryptionFailed:
    return DecryptionFailed(field, key_id=key_id)


class KeyExhausted(CryptoError):
    """A DEK that has encrypted as often as NIST SP 800-38D allows under random nonces."""


class KeyMissing(CryptoError):
    """A key that the keyring does not have, or that was destroyed: nothing can be encrypted under it."""


class Unbound(UsageError):
    """A value without the tenant or the row that it must be bound to."""


class ModeRefused(UsageError):
    """A mode that the profile or the column's own statistics rule out."""
