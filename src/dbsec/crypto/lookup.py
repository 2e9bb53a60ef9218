"""What equal values share: AES-SIV ciphertexts and blind indexes of one column of one tenant, under a lookup key."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from dbsec.crypto.binding import UNBOUND, Field, aad_prefix, label, row_part
from dbsec.crypto.dek import Dek
from dbsec.crypto.errors import DecryptionFailed, ModeRefused
from dbsec.crypto.format import HEADER, TAG_BYTES, Algorithm, header_of

_SIV = b"dbsec/1/siv"
_BLIND = b"dbsec/1/bidx"
_SIV_KEY_BYTES = 64
_MOST_BIGINT = 63
_FULL = 256
_IV_END = HEADER.size + TAG_BYTES


class Normal(StrEnum):
    """What is made of a text before it is compared: equal forms give equal indexes."""

    NONE = "none"
    CASEFOLD = "casefold"  # NFKC, outer blanks off, letters folded: e-mail addresses, names
    DIGITS = "digits"  # digits and a leading plus: phone numbers


@dataclass(frozen=True, slots=True)
class BlindIndex:
    """How values are found again. ``bits`` of HMAC-SHA-256: up to 63 are a bigint, else a multiple of 8 in bytea.

    A unique index needs 128 or more; fewer bits make coincidences, which the caller drops after decryption (the
    planner says how many). ``generation`` is of the key: a rotation is a second column with the next one.
    Errors: ``ModeRefused`` for a width that has no column type.
    """

    bits: int = _FULL
    generation: int = 1
    normal: Normal = Normal.NONE

    def __post_init__(self) -> None:
        if not (1 <= self.bits <= _MOST_BIGINT or (64 <= self.bits <= _FULL and self.bits % 8 == 0)):
            raise ModeRefused(f"a blind index of {self.bits} bits has no column type", hint="1 to 63, or 64, 72 … 256")
        if self.generation < 1:
            raise ModeRefused("the generation of a blind index begins with 1")

    @property
    def integer(self) -> bool:
        """Tell whether the column is a bigint."""
        return self.bits <= _MOST_BIGINT


class Lookup:
    """The lookup key of one column. Each of its two uses has a subkey of its own."""

    __slots__ = ("_ad", "_blind", "_siv", "expires", "field", "header", "hot", "key_id")

    def __init__(self, dek: Dek, key_id: int, place: Field, tenant: str, *, expires: float) -> None:
        self.field = place
        self.key_id = key_id
        self.expires = expires
        self.hot = True
        self.header = header_of(Algorithm.AES_256_SIV, key_id)
        self._siv = AESSIV(dek.subkey(label(_SIV, tenant, place), _SIV_KEY_BYTES))
        self._blind = HMAC(dek.subkey(label(_BLIND, tenant, place)), SHA256())
        # equal values must give equal ciphertexts in all rows: no row is bound
        self._ad = [aad_prefix(tenant, place, self.header) + row_part(UNBOUND)]

    def encrypt(self, value: bytes) -> bytes:
        """Encrypt so that equal values are equal: the synthetic IV is the tag. Source: RFC 5297."""
        return self.header + self._siv.encrypt(value, self._ad)

    def decrypt(self, blob: bytes) -> bytes:
        """Decrypt a value that has our header. Errors: ``DecryptionFailed``."""
        try:
            return self._siv.decrypt(blob[HEADER.size :], self._ad)
        except (InvalidTag, ValueError):
            raise DecryptionFailed(str(self.field), key_id=self.key_id) from None

    def index(self, value: bytes, how: BlindIndex) -> bytes | int:
        """Return the blind index of a value that was brought into its normal form."""
        keyed = self._blind.copy()
        keyed.update(value)
        digest = keyed.finalize()
        if how.integer:
            return int.from_bytes(digest[:8], "big") >> (64 - how.bits)
        return digest[: how.bits // 8]

    def __repr__(self) -> str:
        return f"<lookup key {self.key_id} of {self.field}>"


def normalised(value: str, how: Normal) -> bytes:
    """Return the form that is compared, as UTF-8."""
    return _FORMS[how](value).encode()


_FORMS: dict[Normal, Callable[[str], str]] = {
    Normal.NONE: lambda text: text,
    Normal.CASEFOLD: lambda text: unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text.strip()).casefold()),
    Normal.DIGITS: lambda text: "".join(["+"] * text.lstrip().startswith("+") + [c for c in text if c in "0123456789"]),
}
