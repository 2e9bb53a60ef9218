"""What pgp_sym_encrypt of pgcrypto made, read in this process: the passphrase never travels in SQL.

Binary, or ASCII armor. Where the server's OpenSSL 3 has no legacy provider, pgcrypto "encrypts" by bf and cast5 without
a cipher: it reports no error, the text stands in the column in clear, and any passphrase gives it back. Such values are
read too, and a warning says so. Source: RFC 4880, 3.7 (S2K), 4.2 (packets), 5.3, 5.7, 5.9, 5.13, 13.9.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, CipherAlgorithm, algorithms

from dbsec.crypto.life.legacy import Format, Reader, first
from dbsec.secret import Secret

with warnings.catch_warnings():  # OpenPGP is what it is
    warnings.simplefilter("ignore")
    from cryptography.hazmat.decrepit.ciphers import algorithms as old

    try:
        from cryptography.hazmat.decrepit.ciphers.modes import CFB
    except ImportError:  # where it has not moved yet
        from cryptography.hazmat.primitives.ciphers.modes import CFB

_LOG = logging.getLogger(__name__)
_SESSION_KEY, _ENCRYPTED, _COMPRESSED, _LITERAL, _PROTECTED, _MDC = 3, 9, 8, 11, 18, 19
_HASHES = {1: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}
_CIPHERS: dict[int, tuple[Callable[[bytes], CipherAlgorithm], int, int]] = {
    2: (old.TripleDES, 24, 8),
    3: (old.CAST5, 16, 8),
    4: (old.Blowfish, 16, 8),
    7: (algorithms.AES, 16, 16),
    8: (algorithms.AES, 24, 16),
    9: (algorithms.AES, 32, 16),
}
_MAY_BE_CLEAR = (3, 4)
_INFLATED: dict[int, Callable[[bytes], bytes]] = {
    0: lambda raw: raw,
    1: lambda raw: zlib.decompress(raw, -15),
    2: zlib.decompress,
}


def _open(keys: Sequence[Secret], _: str) -> Reader:
    return first([_reader(key.reveal().encode()) for key in keys])


def _reader(passphrase: bytes) -> Reader:
    def read(value: Any) -> bytes:
        try:
            return _message(_dearmored(value), passphrase)
        except (IndexError, KeyError, zlib.error) as exc:
            raise ValueError("not a message of pgp_sym_encrypt") from exc

    return read


def _message(raw: bytes, passphrase: bytes) -> bytes:
    key, number = b"", 0
    for tag, body in _packets(raw):
        if tag == _SESSION_KEY:
            number, key = _session_key(body, passphrase)
        elif tag == _PROTECTED and key:
            return _decrypted(_protected, body, number, key)
        elif tag == _ENCRYPTED and key:
            return _decrypted(_resynced, body, number, key)
    raise ValueError("no encrypted data")


def _session_key(body: bytes, passphrase: bytes) -> tuple[int, bytes]:
    """Return cipher and key of a Symmetric-Key Encrypted Session Key packet."""
    version, number, kind, digest = body[0], body[1], body[2], _HASHES[body[3]]
    if version != 4 or kind not in (0, 1, 3):
        raise ValueError("this kind of key is not known")
    salt_end = 4 + (8 if kind else 0)
    salt, end = body[4:salt_end], salt_end + (kind == 3)
    count = (16 + (body[salt_end] & 15)) << ((body[salt_end] >> 4) + 6) if kind == 3 else 0
    key = _derived(digest, salt + passphrase, count, _CIPHERS[number][1])
    if len(body) == end:
        return number, key
    inner = _cfb(number, key, bytes(_CIPHERS[number][2]), body[end:])
    if len(inner) != 1 + _CIPHERS[inner[0]][1]:
        raise ValueError("not of this passphrase")
    return inner[0], inner[1:]


def _derived(digest: str, salted: bytes, count: int, size: int) -> bytes:
    count = max(count, len(salted))
    fed = (salted * (count // len(salted) + 1))[:count]
    found = b""
    while len(found) < size:
        # each further block begins with one more zero
        zeros = bytes(len(found) // hashlib.new(digest, usedforsecurity=False).digest_size)
        found += hashlib.new(digest, zeros + fed, usedforsecurity=False).digest()
    return found[:size]


def _decrypted(packet: Callable[[bytes, int, int, bytes], bytes], body: bytes, number: int, key: bytes) -> bytes:
    """Decrypt; where nothing was encrypted, take it as it stands."""
    try:
        return _literal(packet(body, number, _CIPHERS[number][2], key))
    except ValueError:
        if number not in _MAY_BE_CLEAR:
            raise
        found = _literal(packet(body, number, _CIPHERS[number][2], b""))
        _warn_once()
        return found


@cache
def _warn_once() -> None:
    _LOG.warning("pgcrypto has stored values in clear: its server had no legacy ciphers (bf, cast5)")


def _protected(body: bytes, number: int, block: int, key: bytes) -> bytes:
    """Decrypt data with its modification detection code, which is checked."""
    if body[0] != 1:
        raise ValueError("this version is not known")
    plain = _cfb(number, key, bytes(block), body[1:])
    signed, code = plain[:-20], plain[-20:]
    expected = hashlib.new("sha1", signed, usedforsecurity=False).digest()
    if plain[block : block + 2] != plain[block - 2 : block] or not hmac.compare_digest(expected, code):
        raise ValueError("not of this passphrase, or changed")
    if signed[-2:] != bytes([0xC0 | _MDC, 20]):
        raise ValueError("cut off")
    return signed[block + 2 : -2]


def _resynced(body: bytes, number: int, block: int, key: bytes) -> bytes:
    """Decrypt data without such a code (disable-mdc=1): only the passphrase is checked, by two bytes."""
    start = _cfb(number, key, bytes(block), body[: block + 2])
    if start[block:] != start[block - 2 : block]:
        raise ValueError("not of this passphrase")
    return _cfb(number, key, body[2 : block + 2], body[block + 2 :])


def _cfb(number: int, key: bytes, iv: bytes, data: bytes) -> bytes:
    """Decrypt; without a key there was no cipher."""
    if not key:
        return data
    make, *_ = _CIPHERS[number]
    decryptor = Cipher(make(key), CFB(iv)).decryptor()
    return decryptor.update(data) + decryptor.finalize()


def _literal(raw: bytes) -> bytes:
    tag, body = next(_packets(raw))
    if tag == _COMPRESSED:
        return _literal(_INFLATED[body[0]](body[1:]))
    if tag != _LITERAL or body[:1] not in (b"b", b"t", b"u"):
        raise ValueError("no literal data")
    return body[2 + body[1] + 4 :]


def _packets(raw: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(raw):
        head = raw[at]
        if not head & 0x80:
            raise ValueError("no packet")
        if head & 0x40:
            body, at = _new_body(raw, at + 1)
            yield head & 0x3F, body
        else:
            tag, kind = head >> 2 & 0x0F, head & 3
            width = 1 << kind
            size = int.from_bytes(raw[at + 1 : at + 1 + width], "big") if kind < 3 else len(raw)
            begin = at + 1 + (width if kind < 3 else 0)
            yield tag, _taken(raw, begin, min(size, len(raw) - begin) if kind == 3 else size)
            at = begin + size


def _new_body(raw: bytes, at: int) -> tuple[bytes, int]:
    """Join the parts of a body in the new format; returns it and where it ends."""
    body = b""
    while True:
        size, first_byte = raw[at], raw[at]
        at += 1
        if 192 <= first_byte < 224:
            size, at = ((first_byte - 192) << 8) + raw[at] + 192, at + 1
        elif first_byte == 255:
            size, at = int.from_bytes(raw[at : at + 4], "big"), at + 4
        elif first_byte >= 224:
            size = 1 << (first_byte & 0x1F)
        body += _taken(raw, at, size)
        at += size
        if not 224 <= first_byte < 255:
            return body, at


def _taken(raw: bytes, begin: int, size: int) -> bytes:
    if begin + size > len(raw):
        raise ValueError("cut off")
    return raw[begin : begin + size]


def _dearmored(value: Any) -> bytes:
    raw = value.encode("ascii") if isinstance(value, str) else bytes(value)
    if not raw.lstrip().startswith(b"-----BEGIN PGP MESSAGE-----"):
        if isinstance(value, str):
            raise ValueError("no armor")
        return raw
    _, _, rest = raw.replace(b"\r\n", b"\n").partition(b"\n\n")
    lines = rest.partition(b"-----END")[0].split()
    return base64.b64decode(b"".join(line for line in lines if not line.startswith(b"=")), validate=True)


FORMAT = Format("pgp_sym_encrypt of pgcrypto, binary or in armor", _open)
