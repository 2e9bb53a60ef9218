"""Write tests/vectors/crypto_{values,keys,indexes}.json: what a reader must open, and what it must refuse.

The format is written here a second time, from docs/formats.md: nothing of dbsec is imported. ``python
scripts/crypto_vectors.py`` writes the files, ``--check`` compares. Keys and nonces are hashes of their names: fixed,
and good for nothing else. Bytes stand in hex.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

TARGETS = Path(__file__).resolve().parents[1] / "tests" / "vectors"
ROW_TYPES = {"int8": 1, "uuid": 2, "text": 3, "bytea": 4}
VERSION_TYPE = 0x7F
AN_ID = "6f1c2a52-6a0e-4d0b-9a0c-2f8f5d3b7e11"


def named(name: str, size: int = 32) -> bytes:
    """Return bytes that are fixed by a name."""
    return hashlib.sha256(f"dbsec vector: {name}".encode()).digest()[:size]


def lp(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def hkdf(key: bytes, salt: bytes, info: bytes, size: int = 32) -> bytes:
    """RFC 5869 with SHA-256."""
    inner = hmac.digest(salt, key, "sha256")
    block = out = b""
    while len(out) < size:
        block = hmac.digest(inner, block + info + bytes([len(out) // 32 + 1]), "sha256")
        out += block
    return out[:size]


KEK = named("kek")


def wrapped(dek: bytes, bound: dict[str, str], nonce: bytes) -> bytes:
    """Wrap as the KMS of the vectors does."""
    pairs = sorted((name.encode(), value.encode()) for name, value in bound.items() if value)
    return nonce + AESGCM(KEK).encrypt(nonce, dek, lp(*[part for pair in pairs for part in pair]))


@dataclass(frozen=True)
class Key:
    """A row of the keyring, with its DEK in clear."""

    id: int
    tenant: str = "acme"
    context: str = "app.users"
    purpose: str = "data"
    generation: int = 1
    state: str = "active"
    dek: bytes = b""
    commitment: bytes = b""

    @property
    def secret(self) -> bytes:
        return self.dek or named(f"dek {self.id}")

    @property
    def salt(self) -> bytes:
        return named(f"salt {self.id}")

    def bound(self) -> dict[str, str]:
        return {
            "dbsec": "keyring/1",
            "tenant": self.tenant,
            "context": self.context,
            "purpose": self.purpose,
            "generation": str(self.generation),
        }

    def subkey(self, purpose: str, column: str, size: int = 32) -> bytes:
        info = lp(purpose.encode(), self.tenant.encode(), self.context.encode(), column.encode())
        return hkdf(self.secret, self.salt, info, size)

    def told(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "tenant": self.tenant,
            "context": self.context,
            "purpose": self.purpose,
            "generation": self.generation,
            "state": self.state,
            "salt": self.salt.hex(),
            "commitment": (self.commitment or hkdf(self.secret, self.salt, lp(b"dbsec/1/commit"))).hex(),
            "wrapped": wrapped(self.secret, self.bound(), named(f"wrap {self.id}", 12)).hex(),
        }


DATA = Key(1)
OLD = Key(2, generation=2, state="retired")
LARGEST = Key(0xFFFFFFFF, context="app.orders")
OF_OTHER_TENANT = Key(3, tenant="globex")
OF_NO_TENANT = Key(4, tenant="", context="app.rates")
LOOKUP = Key(5, purpose="lookup")
SECOND_LOOKUP = Key(6, purpose="lookup", generation=2)
DESTROYED = Key(7, generation=3, state="destroyed")
# its row commits to the DEK named here, and what is wrapped is another one
COMMITTED = Key(8, context="app.committed")
SWITCHED = replace(
    COMMITTED,
    dek=named("another dek"),
    commitment=hkdf(COMMITTED.secret, COMMITTED.salt, lp(b"dbsec/1/commit")),
)
KEYS = [DATA, OLD, LARGEST, OF_OTHER_TENANT, OF_NO_TENANT, LOOKUP, SECOND_LOOKUP, DESTROYED, SWITCHED]


def row_bytes(row: list[dict[str, str]], version: str | None) -> bytes:
    return b"".join(_part(one) for one in row) + (_typed(VERSION_TYPE, _int8(version)) if version is not None else b"")


def _part(one: dict[str, str]) -> bytes:
    ((kind, text),) = one.items()
    raw = {"int8": _int8, "uuid": _uuid, "text": str.encode, "bytea": bytes.fromhex}[kind](text)
    return _typed(ROW_TYPES[kind], raw)


def _typed(kind: int, raw: bytes) -> bytes:
    return struct.pack(">BI", kind, len(raw)) + raw


def _int8(text: str) -> bytes:
    return struct.pack(">q", int(text))


def _uuid(text: str) -> bytes:
    return UUID(text).bytes


Row = list[dict[str, str]]


@dataclass(frozen=True)
class Value:
    """A value and the place it is read at."""

    name: str
    plain: bytes = b"+43 660 1234567"
    key: Key = DATA
    column: str = "phone"
    row: tuple[tuple[str, str], ...] = (("int8", "1"),)
    version: str | None = None
    low: int = 1  # of the second byte: the algorithm

    @property
    def rows(self) -> Row:
        return [{kind: text} for kind, text in self.row]

    @property
    def nonce(self) -> bytes:
        return named(f"nonce {self.name}", 12)

    def aad(self, header: bytes) -> bytes:
        row = b"" if self.low == 2 else row_bytes(self.rows, self.version)
        names = [self.key.tenant.encode(), self.key.context.encode(), self.column.encode()]
        return lp(b"dbsec/aad/1", *names, header, row)

    def header(self) -> bytes:
        if self.low != 3:
            return struct.pack(">BBI", 0xD5, 0x10 | self.low, self.key.id)
        inline = wrapped(self.inline_dek, self._bound(), named(f"wrap {self.name}", 12))
        commitment = hkdf(self.inline_dek, bytes(32), lp(b"dbsec/1/commit"))
        return struct.pack(">BBH", 0xD5, 0x13, len(inline)) + inline + commitment

    @property
    def inline_dek(self) -> bytes:
        return named(f"dek {self.name}")

    def _bound(self) -> dict[str, str]:
        return {"dbsec": "inline/1", "tenant": self.key.tenant, "context": self.key.context, "column": self.column}

    def raw(self) -> bytes:
        header = self.header()
        aad = self.aad(header)
        if self.low == 2:
            return header + AESSIV(self.key.subkey("dbsec/1/siv", self.column, 64)).encrypt(self.plain, [aad])
        key = self.key.subkey("dbsec/1/aead", self.column)
        if self.low == 3:
            names = [self.key.tenant.encode(), self.key.context.encode(), self.column.encode()]
            key = hkdf(self.inline_dek, bytes(32), lp(b"dbsec/1/aead", *names))
        return header + self.nonce + AESGCM(key).encrypt(self.nonce, self.plain, aad)

    def told(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "tenant": self.key.tenant,
            "context": self.key.context,
            "column": self.column,
            "row": [] if self.low == 2 else self.rows,
            "version": self.version,
            "value": self.raw().hex(),
        }


def valid_values() -> Iterator[dict[str, Any]]:
    """Each row type, each algorithm, the borders of lengths and ids."""
    composite = (("uuid", AN_ID), ("int8", "-1"), ("text", "Ä"), ("bytea", "00ff"))
    values = [
        Value("a phone number"),
        Value("nothing", b""),
        Value("one byte", b"\0"),
        Value("a block", bytes(range(16))),
        Value("a block and a byte", bytes(range(17))),
        Value("300 bytes", bytes(range(256)) + bytes(44)),
        Value("text beyond ASCII", "Žofia 東京 🙂".encode()),
        Value("another column", column="email"),
        Value("an older key", key=OLD),
        Value("the largest key id", key=LARGEST),
        Value("a table of no tenant", key=OF_NO_TENANT),
        Value("the largest id", row=(("int8", str(2**63 - 1)),)),
        Value("the smallest id", row=(("int8", str(-(2**63))),)),
        Value("an id that is a uuid", row=(("uuid", AN_ID),)),
        Value("an id that is a text", row=(("text", "1"),)),
        Value("an id that is an empty text", row=(("text", ""),)),
        Value("an id that is bytes", row=(("bytea", "0000000000000001"),)),
        Value("an id of four parts", row=composite),
        Value("bound to no row", row=()),
        Value("bound to the row's version", version="7"),
        Value("bound to no row and to version 0", row=(), version="0"),
        Value("deterministic", b"ann@example.org", key=LOOKUP, column="email", low=2),
        Value("deterministic, nothing", b"", key=LOOKUP, column="email", low=2),
        Value("deterministic, shorter than a block", b"x", key=LOOKUP, column="email", low=2),
        Value("deterministic, a block", bytes(range(16)), key=LOOKUP, column="email", low=2),
        Value("deterministic, 33 bytes", bytes(range(33)), key=LOOKUP, column="email", low=2),
        Value("deterministic, second generation", b"ann@example.org", key=SECOND_LOOKUP, column="email", low=2),
        Value("inline", low=3),
        Value("inline, nothing", b"", low=3),
        Value("inline, of no tenant, bound to version -1", key=OF_NO_TENANT, version="-1", low=3),
    ]
    for one in values:
        yield {**one.told(), "aad": one.aad(one.header()).hex(), "plaintext": one.plain.hex()}


def invalid_values() -> Iterator[dict[str, Any]]:
    for name, one, changed in [*_malformed(), *_altered(), *_moved(), *_wrong_key()]:
        yield {**one.told(), **changed, "name": name}


Invalid = Iterator[tuple[str, Value, dict[str, Any]]]
WHOLE = Value("the one that is broken")
SIV = Value("the deterministic one that is broken", b"ann@example.org", key=LOOKUP, column="email", low=2)
INLINE = Value("the inline one that is broken", low=3)


def _malformed() -> Invalid:
    raw = WHOLE.raw()
    for what, text in [
        ("nothing", b""),
        ("the magic alone", raw[:1]),
        ("plaintext", b"+43 660 1234567, in clear, and longer than 34 bytes"),
        ("another magic", b"\xd4" + raw[1:]),
        ("a stream", b"\xd5STM" + raw[4:]),
        *[(f"second byte {low:02x}", raw[:1] + bytes([low]) + raw[2:]) for low in (0x01, 0x21, 0xF1, 0x10, 0x14, 0x1F)],
    ]:
        yield what, WHOLE, {"value": text.hex()}
    for one, cuts in [
        (WHOLE, (2, 5, 6, 17, 18, 33, -1)),
        (SIV, (6, 21, -1)),
        (INLINE, (3, 4, 63, 64, 95, 96, 123, -1)),
    ]:
        whole = one.raw()
        for at in cuts:
            cut = whole[:at]
            yield f"{one.name.removesuffix(' that is broken')}, cut to {len(cut)} bytes", one, {"value": cut.hex()}
        yield f"{one.name.removesuffix(' that is broken')}, a byte appended", one, {"value": (whole + b"\0").hex()}


def _altered() -> Invalid:
    places = {"key id": 2, "first bit of the nonce": 6, "ciphertext": 18, "last byte": -1}
    for what, at in places.items():
        yield f"altered: {what}", WHOLE, {"value": _flipped(WHOLE.raw(), at).hex()}
    for what, at in {"key id": 5, "synthetic IV": 6, "ciphertext": 22}.items():
        yield f"deterministic, altered: {what}", SIV, {"value": _flipped(SIV.raw(), at).hex()}
    inline = {"length": 3, "wrapped DEK": 20, "commitment": 64, "nonce": 96, "ciphertext": 108, "tag": -1}
    for what, at in inline.items():
        yield f"inline, altered: {what}", INLINE, {"value": _flipped(INLINE.raw(), at).hex()}
    other = Value("another inline one", low=3).raw()
    mixed = INLINE.raw()
    yield "inline, commitment of another", INLINE, {"value": (mixed[:64] + other[64:96] + mixed[96:]).hex()}
    yield "inline, header of another", INLINE, {"value": (other[:96] + mixed[96:]).hex()}


def _flipped(raw: bytes, at: int) -> bytes:
    at %= len(raw)
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def _moved() -> Invalid:
    yield "another row", WHOLE, {"row": [{"int8": "2"}]}
    yield "an id of another type", WHOLE, {"row": [{"text": "1"}]}
    yield "the id's bytes as bytea", WHOLE, {"row": [{"bytea": "0000000000000001"}]}
    yield "an id of one part more", WHOLE, {"row": [{"int8": "1"}, {"int8": "1"}]}
    yield "no row where one is bound", WHOLE, {"row": []}
    yield "a row where none is bound", Value("unbound", row=()), {"row": [{"int8": "1"}]}
    two = Value("two parts", row=(("int8", "1"), ("int8", "2")))
    yield "parts of the id exchanged", two, {"row": [{"int8": "2"}, {"int8": "1"}]}
    texts = Value("two texts", row=(("text", "a"), ("text", "bc")))
    yield "the border between two parts shifted", texts, {"row": [{"text": "ab"}, {"text": "c"}]}
    yield "uuid as text", Value("uuid", row=(("uuid", AN_ID),)), {"row": [{"text": AN_ID}]}
    versioned = Value("versioned", version="7")
    yield "an older version of the row", versioned, {"version": "8"}
    yield "no version where one is bound", versioned, {"version": None}
    yield "a version where none is bound", WHOLE, {"version": "1"}
    yield (
        "a version for a part of the id",
        Value("1 and 7", row=(("int8", "1"), ("int8", "7"))),
        versioned.told() | {"value": Value("1 and 7", row=(("int8", "1"), ("int8", "7"))).raw().hex()},
    )
    for one, kind in ((WHOLE, ""), (SIV, "deterministic, "), (INLINE, "inline, ")):
        yield f"{kind}another column", one, {"column": "fax"}
        yield f"{kind}another table", one, {"context": "app.orders"}
        yield f"{kind}another tenant", one, {"tenant": "globex"}
        yield f"{kind}no tenant", one, {"tenant": ""}
    yield "the border between table and column shifted", WHOLE, {"context": "app.user", "column": "sphone"}


def _wrong_key() -> Invalid:
    yield "an unknown key", Value("unknown", key=replace(DATA, id=99)), {}
    yield "a destroyed key", Value("destroyed", key=DESTROYED), {}
    yield "header of an older key", WHOLE, {"value": (OLD_HEADER + WHOLE.raw()[6:]).hex()}
    yield "a lookup key for random nonces", Value("lookup", key=LOOKUP), {}
    yield "a data key for deterministic", Value("data", key=DATA, low=2), {}
    yield "random nonces read as deterministic", WHOLE, {"value": (b"\xd5\x12" + WHOLE.raw()[2:]).hex()}
    yield "deterministic read as random nonces", SIV, {"value": (b"\xd5\x11" + SIV.raw()[2:] + bytes(12)).hex()}
    one = Value("one of two keys", key=SWITCHED)
    yield "a wrapped DEK that the row does not commit to", one, {}
    yield "one value that opens under two DEKs, the committed one and the wrapped one", one, {"value": two_keys().hex()}


OLD_HEADER = Value("", key=OLD).header()


def times(a: int, b: int) -> int:
    """Multiply in the field of GCM. Source: NIST SP 800-38D, 6.3."""
    product = 0
    for at in range(127, -1, -1):
        if a >> at & 1:
            product ^= b
        b = b >> 1 ^ (b & 1) * (0xE1 << 120)
    return product


def inverse(a: int) -> int:
    """Return a^(2^128 - 2)."""
    out, square = 1 << 127, a
    for _ in range(127):
        square = times(square, square)
        out = times(out, square)
    return out


def ghash(h: int, aad: bytes, ciphertext: bytes) -> int:
    """Source: NIST SP 800-38D, 6.4 and 7.1."""
    padded = b"".join(part + bytes(-len(part) % 16) for part in (aad, ciphertext))
    padded += struct.pack(">QQ", len(aad) * 8, len(ciphertext) * 8)
    y = 0
    for at in range(0, len(padded), 16):
        y = times(y ^ int.from_bytes(padded[at : at + 16], "big"), h)
    return y


def block(key: bytes, counter: bytes) -> int:
    """Return AES of one block: the key stream of CTR is just that."""
    return int.from_bytes(Cipher(AES(key), CTR(counter)).encryptor().update(bytes(16)), "big")


def two_keys() -> bytes:
    """Return one value that AES-GCM opens under two keys: one block is solved for, so that the tags meet."""
    place = Value("one of two keys", key=COMMITTED)
    header, nonce = place.header(), place.nonce
    aad = place.aad(header)
    keys = [one.subkey("dbsec/1/aead", place.column) for one in (COMMITTED, SWITCHED)]
    h = [block(key, bytes(16)) for key in keys]
    first = named("first block", 16)
    # tag = E(J0) + ghash; the block c behind the first one stands before the lengths, and so is multiplied by h^2
    open_tags = [
        block(key, nonce + b"\0\0\0\1") ^ ghash(one, aad, first + bytes(16)) for key, one in zip(keys, h, strict=True)
    ]
    squares = [times(one, one) for one in h]
    solved = times(open_tags[0] ^ open_tags[1], inverse(squares[0] ^ squares[1]))
    tag = open_tags[0] ^ times(solved, squares[0])
    value = header + nonce + first + solved.to_bytes(16, "big") + tag.to_bytes(16, "big")
    for key in keys:
        AESGCM(key).decrypt(nonce, value[18:], aad)  # raises where it does not open
    return value


def keys_file() -> dict[str, Any]:
    """Rows that open, with what is derived from them, and rows that must not be used."""
    return {"format": 1, "kek": KEK.hex(), "valid": list(_valid_keys()), "invalid": list(_invalid_keys())}


def _valid_keys() -> Iterator[dict[str, Any]]:
    for one in (DATA, LARGEST, OF_NO_TENANT, LOOKUP, SECOND_LOOKUP):
        yield {
            "name": f"key {one.id}",
            **one.told(),
            "dek": one.secret.hex(),
            "column": "phone",
            "aead": one.subkey("dbsec/1/aead", "phone").hex(),
            "siv": one.subkey("dbsec/1/siv", "phone", 64).hex(),
            "bidx": one.subkey("dbsec/1/bidx", "phone").hex(),
        }


def _invalid_keys() -> Iterator[dict[str, Any]]:
    whole = DATA.told()
    raw = bytes.fromhex(whole["wrapped"])
    short = wrapped(bytes(31), DATA.bound(), named("short", 12))
    for name, changed in [
        ("another tenant's", {"tenant": "globex"}),
        ("no tenant's", {"tenant": ""}),
        ("another table's", {"context": "app.orders"}),
        ("another purpose", {"purpose": "lookup"}),
        ("another generation", {"generation": 2}),
        ("another salt", {"salt": OLD.salt.hex()}),
        ("another commitment", {"commitment": OLD.told()["commitment"]}),
        ("another wrapped DEK", {"wrapped": OLD.told()["wrapped"]}),
        ("a DEK that was not committed to", {"wrapped": replace(DATA, dek=named("x")).told()["wrapped"]}),
        ("altered nonce", {"wrapped": _flipped(raw, 0).hex()}),
        ("altered DEK", {"wrapped": _flipped(raw, 12).hex()}),
        ("altered tag", {"wrapped": _flipped(raw, -1).hex()}),
        ("cut", {"wrapped": raw[:-1].hex()}),
        ("empty", {"wrapped": ""}),
        ("a DEK of 31 bytes", {"wrapped": short.hex()}),
        ("destroyed", {"state": "destroyed"}),
    ]:
        yield {"name": name, **whole, **changed, "column": "phone"}


# Default_Ignorable_Code_Point of Unicode 14: Python's tables do not have it
UNSEEN = [
    *(0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), *range(0x200B, 0x2010)),
    *(*range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x3164, *range(0xFE00, 0xFE10), 0xFEFF, 0xFFA0),
    *(*range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B), *range(0xE0000, 0xE1000)),
]


def folded(text: str) -> str:
    unseen = dict.fromkeys(UNSEEN)
    for step in ("NFD", "NFKD"):
        text = unicodedata.normalize(step, text.translate(unseen)).casefold()
    return unicodedata.normalize("NFKC", text.translate(unseen)).strip()


def digits(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text)
    found = [str(unicodedata.decimal(c)) for c in plain if c.isdecimal()]
    if not found:
        return folded(text)
    start, plus, _ = plain.partition("+")
    return plus * (not any(c.isdecimal() for c in start)) + "".join(found)


FORMS = {"none": str, "casefold": folded, "digits": digits}


def indexes() -> Iterator[dict[str, Any]]:
    for name, text, form, bits, key in [
        ("full", "ann@example.org", "none", 256, LOOKUP),
        ("128 bits", "ann@example.org", "none", 128, LOOKUP),
        ("64 bits are bytes", "ann@example.org", "none", 64, LOOKUP),
        ("63 bits are a bigint", "ann@example.org", "none", 63, LOOKUP),
        ("20 bits", "ann@example.org", "none", 20, LOOKUP),
        ("one bit", "ann@example.org", "none", 1, LOOKUP),
        ("second generation", "ann@example.org", "none", 256, SECOND_LOOKUP),
        ("nothing", "", "none", 256, LOOKUP),
        ("letters that fold", " Ann@Example.ORG\t", "casefold", 256, LOOKUP),
        ("sharp s", "Straße", "casefold", 256, LOOKUP),
        ("ligature and full width", "\ufb01le \uff21\u3000", "casefold", 256, LOOKUP),
        ("two spellings of one letter", "A\u030angstro\u0308m", "casefold", 256, LOOKUP),
        ("a blank of no width and a soft hyphen", "an\u200bn@exam\u00adple.org", "casefold", 256, LOOKUP),
        ("iota below", "\u1fb3\u0345 \u0399", "casefold", 256, LOOKUP),
        ("blanks around, of many kinds", "\u00a0\u2003\x1cann\u3000\x85", "casefold", 256, LOOKUP),
        ("a phone number", " +43 (660) 123-45 67", "digits", 63, LOOKUP),
        ("a phone number without a plus", "0043 660/1234567", "digits", 63, LOOKUP),
        ("digits of three scripts", "1\u0662\uff13", "digits", 63, LOOKUP),
        ("words before the plus", "tel. (+43) 1", "digits", 63, LOOKUP),
        ("a plus behind a digit", "0+43", "digits", 63, LOOKUP),
        ("no digit at all", " Unknown+ ", "digits", 63, LOOKUP),
    ]:
        normal = FORMS[form](text).encode()
        mac = hmac.digest(key.subkey("dbsec/1/bidx", "email"), normal, "sha256")
        index = str(int.from_bytes(mac[:8], "big") >> 64 - bits) if bits < 64 else mac[: bits // 8].hex()
        yield {
            "name": name,
            "tenant": key.tenant,
            "context": key.context,
            "column": "email",
            "generation": key.generation,
            "normal": form,
            "bits": bits,
            "text": text,
            "normal_form": normal.hex(),
            "index": index,
        }


def made() -> dict[str, str]:
    """Return the files by name."""
    rows = [one.told() for one in KEYS]
    values = {"valid": list(valid_values()), "invalid": list(invalid_values())}
    files = {
        "crypto_values.json": {"format": 1, "kek": KEK.hex(), "keys": rows, **values},
        "crypto_keys.json": keys_file(),
        "crypto_indexes.json": {"format": 1, "kek": KEK.hex(), "keys": rows, "valid": list(indexes())},
    }
    return {name: json.dumps(content, indent=1) + "\n" for name, content in files.items()}


def main() -> None:
    check = "--check" in sys.argv[1:]
    for name, text in made().items():
        target = TARGETS / name
        if not check:
            target.write_text(text)
        elif not target.exists() or target.read_text() != text:
            sys.exit(f"{name} is not what it was made from: python scripts/crypto_vectors.py")


if __name__ == "__main__":
    main()
