"""What equal values share: AES-SIV ciphertexts and blind indexes of one column of one tenant, under a lookup key."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final
from unicodedata import decimal, normalize

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from dbsec.crypto.binding import UNBOUND, Field, aad_prefix, label, row_part
from dbsec.crypto.dek import Dek
from dbsec.crypto.errors import DecryptionFailed, ModeRefused
from dbsec.crypto.format import HEADER, Algorithm, header_of

_SIV = b"dbsec/1/siv"
_BLIND = b"dbsec/1/bidx"
_SIV_KEY_BYTES = 64
_MOST_BIGINT = 63
_FULL = 256
_HALF = re.compile("[\ud800-\udfff]")


class Normal(StrEnum):
    """What is made of a text before it is compared: equal forms give equal indexes."""

    NONE = "none"
    CASEFOLD = "casefold"  # letters folded, spellings joined, blanks around and what is not seen off: e-mail addresses
    DIGITS = "digits"  # digits of any script, and a plus before them: phone numbers


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

    __slots__ = ("_ad", "_blind", "_derive_siv", "_siv", "expires", "field", "header", "hot", "key_id")

    def __init__(self, dek: Dek, key_id: int, place: Field, tenant: str, *, expires: float) -> None:
        self.field = place
        self.key_id = key_id
        self.expires = expires
        self.hot = True
        self.header = header_of(Algorithm.AES_256_SIV, key_id)
        self._siv: AESSIV | None = None
        self._derive_siv = partial(dek.subkey, label(_SIV, tenant, place), _SIV_KEY_BYTES)
        self._blind = HMAC(dek.subkey(label(_BLIND, tenant, place)), SHA256())
        # equal values must give equal ciphertexts in all rows: no row is bound
        self._ad = [aad_prefix(tenant, place, self.header) + row_part(UNBOUND)]

    def encrypt(self, value: bytes) -> bytes:
        """Encrypt so that equal values are equal: the synthetic IV is the tag. Source: RFC 5297."""
        return self.header + (self._siv or self._cipher()).encrypt(value, self._ad)

    def decrypt(self, blob: bytes) -> bytes:
        """Decrypt a value that has our header. Errors: ``DecryptionFailed``."""
        try:
            return (self._siv or self._cipher()).decrypt(blob[HEADER.size :], self._ad)
        except (InvalidTag, ValueError):
            raise DecryptionFailed(str(self.field), key_id=self.key_id) from None

    def _cipher(self) -> AESSIV:
        """Make the cipher when it is needed: an OpenSSL in FIPS mode has none, and makes blind indexes all the same."""
        try:
            self._siv = AESSIV(self._derive_siv())
        except UnsupportedAlgorithm as exc:
            raise ModeRefused(f"'{self.field}' is deterministic, and this OpenSSL has no AES-SIV") from exc
        return self._siv

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


def normalised(value: str | bytes, how: Normal) -> bytes:
    """Return the form that is compared, as UTF-8. Two values that differ may have one form, which is what it is for.

    Errors: ``ModeRefused`` for bytes where a form of text is asked for: they would never meet the same text.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        if how is not Normal.NONE:
            raise ModeRefused(f"bytes have no form '{how}'", hint="pass text, or normal = 'none'")
        return bytes(value)
    form = _FORMS[how](value)
    if not form.isascii() and _HALF.search(form):
        # not left to encode(): its error carries the value
        raise ModeRefused("a value has half of a surrogate pair: it is no text")
    return form.encode()


def _folded(text: str) -> str:
    """Fold case as Unicode's compatibility caseless matching does, without what has no shape of its own.

    Source: The Unicode Standard 3.13, D146, and toNFKC_Casefold for the default ignorables.
    """
    if text.isascii():
        return text.lower().strip()
    seen = text.translate(_UNSEEN)
    folded = normalize("NFKD", normalize("NFD", seen).casefold()).casefold()
    return normalize("NFKC", folded.translate(_UNSEEN)).strip()


def _digits(text: str) -> str:
    """Keep the digits, and a plus that stands before them all; text without any keeps what ``_folded`` leaves."""
    plain = normalize("NFKC", text)
    found = [(at, decimal(c)) for at, c in enumerate(plain) if c.isdecimal()]
    if not found:
        return _folded(text)
    return "+" * ("+" in plain[: found[0][0]]) + "".join(str(digit) for _, digit in found)


# Default_Ignorable_Code_Point: a blank of no width inside an address makes no other address of it
_UNSEEN: Final = dict.fromkeys(
    code
    for first, last in (
        (0x00AD, 0x00AD),
        (0x034F, 0x034F),
        (0x061C, 0x061C),
        (0x115F, 0x1160),
        (0x17B4, 0x17B5),
        (0x180B, 0x180F),
        (0x200B, 0x200F),
        (0x202A, 0x202E),
        (0x2060, 0x206F),
        (0x3164, 0x3164),
        (0xFE00, 0xFE0F),
        (0xFEFF, 0xFEFF),
        (0xFFA0, 0xFFA0),
        (0xFFF0, 0xFFF8),
        (0x1BCA0, 0x1BCA3),
        (0x1D173, 0x1D17A),
        (0xE0000, 0xE0FFF),
    )
    for code in range(first, last + 1)
)
_FORMS: Final[dict[Normal, Callable[[str], str]]] = {
    Normal.NONE: lambda text: text,
    Normal.CASEFOLD: _folded,
    Normal.DIGITS: _digits,
}
