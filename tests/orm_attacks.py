"""What somebody with write access does to a row of ``orm_bed``, and what the refusal of it may say."""

from __future__ import annotations

import traceback
from typing import Final

from tests.orm_bed import OTHER

from dbsec.crypto import DecryptionFailed

ONE, TWO, THEIRS = 101, 102, 103
ELSEWHERE: Final = ONE + 1000
PHONE, PHOTO = "+49 170 5550101", b"\x89PNG of 5550101"


def email(number: int) -> str:
    return f"zoe5550{number}@example.org"


def _others(column: str, number: int) -> str:
    return f"UPDATE shop.users SET {column} = (SELECT {column} FROM shop.users WHERE id = {number}) WHERE id = {ONE}"


def _bit(column: str, place: str | int) -> str:
    changed = f"set_byte({column}, {place}, get_byte({column}, {place}) # 1)"
    return f"UPDATE shop.users SET {column} = {changed} WHERE id = {ONE}"


def _shorter(column: str) -> str:
    return f"UPDATE shop.users SET {column} = substr({column}::bytea, 1, length({column}) - 1) WHERE id = {ONE}"


_TENANT = f"UPDATE shop.users SET tenant_id = '{OTHER}' WHERE id = {ONE}"
_ID = f"UPDATE shop.users SET id = {ELSEWHERE} WHERE id = {ONE}"

# by column; ``to another ...`` moves all values of the row, of which the phone is the first to be refused
ATTACKS: Final = {
    "phone": {
        "from another row": _others("phone", TWO),
        "from another tenant": _others("phone", THEIRS),
        "to another tenant": _TENANT,
        "to another id": _ID,
        "from another column": f"UPDATE shop.users SET phone = photo WHERE id = {ONE}",
        "a tag": _bit("phone", "length(phone) - 1"),
        "a nonce": _bit("phone", 6),
        "a key id": _bit("phone", 2),
        "an end": _shorter("phone"),
    },
    # bound to no row, by design: what stands in another row of the tenant opens here too
    "email": {
        "from another tenant": (  # which must lose it: it is unique
            f"WITH theirs AS (DELETE FROM shop.users WHERE id = {THEIRS} RETURNING email)"
            f" UPDATE shop.users SET email = (SELECT email FROM theirs) WHERE id = {ONE}"
        ),
        "a synthetic IV": _bit("email", 6),
        "a ciphertext": _bit("email", "length(email) - 1"),
        "a key id": _bit("email", 2),
        "an end": _shorter("email"),
    },
    "photo": {
        "from another row": _others("photo", TWO),
        "from another tenant": _others("photo", THEIRS),
        "from another column": f"UPDATE shop.users SET photo = phone WHERE id = {ONE}",
        "a tag": _bit("photo", "length(photo) - 1"),
        "a nonce": _bit("photo", "length(photo) - 16 - 15 - 12"),
        "a commitment": _bit("photo", "length(photo) - 16 - 15 - 12 - 1"),
        "a wrapped key": _bit("photo", 4),
        "a length": _bit("photo", 3),
        "an end": _shorter("photo"),
    },
}
EACH: Final = [(column, what) for column, attacks in ATTACKS.items() for what in attacks]


def named_key(value: bytes) -> int | None:
    """Return the key id that a stored value names, as docs/formats.md has it."""
    return int.from_bytes(value[2:6], "big") if value[1] in (0x11, 0x12) else None


def check_refusal(refusal: BaseException, column: str, key: int | None) -> None:
    """It is the one error, names column and key, and neither it nor its traceback tells data."""
    assert type(refusal) is DecryptionFailed
    assert (refusal.field, refusal.key_id) == (f"shop.users.{column}", key)
    assert str(refusal) == f"a value of 'shop.users.{column}' cannot be decrypted"
    told = [str(refusal), repr(refusal), repr(refusal.args), repr(vars(refusal)), *traceback.format_exception(refusal)]
    assert "5550" not in "".join(told)
    assert "PNG" not in "".join(told)
