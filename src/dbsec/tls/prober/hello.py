"""TLS up to the server's first flight: a ClientHello in bytes, and what comes back; nothing here encrypts.

Shape: a record is ``uint8 type, uint16 version, uint16 length, fragment``; a handshake message in it is ``uint8 type,
uint24 length, body``; numbers are big-endian. Source: RFC 5246 section 7.4, RFC 8446 section 4, RFC 8422, RFC 7919.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from dbsec.tls.prober.suites import Version

Receive = Callable[[int], bytes]  # exactly so many bytes, or ConnectionError

HANDSHAKE, ALERT = 22, 21
_CLIENT_HELLO, _SERVER_HELLO, _CERTIFICATE, _KEY_EXCHANGE, _CERTIFICATE_REQUEST, _DONE = 1, 2, 11, 12, 13, 14
_RENEGOTIATION, _FALLBACK = 0x00FF, 0x5600
_SNI, _GROUPS, _POINTS, _SIGNATURES, _ALPN, _EMS, _VERSIONS, _PSK_MODES, _KEY_SHARE = 0, 10, 11, 13, 16, 23, 43, 45, 51
_NAMED_CURVE = 3
_LARGEST = 1 << 18  # of a first flight: a chain of certificates, far below this
# what a server may sign with, old ones at the end so that nothing is refused for the want of them
_SCHEMES = (0x0403, 0x0503, 0x0603, 0x0807, 0x0808, 0x0804, 0x0805, 0x0806, 0x0809, 0x080A, 0x080B, 0x0401, 0x0501)
_OLD_SCHEMES = (0x0601, 0x0303, 0x0301, 0x0203, 0x0201, 0x0402, 0x0202, 0x0101)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a ClientHello offers: code points, and names where they matter."""

    version: Version
    suites: Sequence[int]
    groups: Sequence[int]
    server_name: str = ""
    alpn: Sequence[str] = ()
    fallback: bool = False
    compression: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's first flight; ``alert`` is its number where it refused, and ``closed`` where it hung up instead.

    ``certificates``: DER, leaf first; they, ``group`` below TLS 1.3, ``dh_bits`` and ``asks_certificate`` are in clear
    up to TLS 1.2 only.
    """

    version: int = 0
    suite: int | None = None
    group: int | None = None
    alpn: str = ""
    extended_master_secret: bool = False
    compressed: bool = False
    certificates: tuple[bytes, ...] = field(default=(), repr=False)
    dh_bits: int | None = None
    asks_certificate: bool = False
    alert: int | None = None
    closed: bool = False


def client_hello(offer: Offer) -> bytes:
    """Write the record. In TLS 1.3 the key share is empty: the server answers by a HelloRetryRequest that names its
    group, and no key is ever made.
    """
    legacy = min(offer.version, Version.TLS_1_2)
    suites = [*offer.suites, *([_FALLBACK] if offer.fallback else ())]
    if offer.version < Version.TLS_1_3:
        suites.append(_RENEGOTIATION)
    extensions = b"".join(_extensions(offer)) if offer.version > Version.SSL_3 else b""
    body = struct.pack(">H", legacy) + os.urandom(32) + _short(os.urandom(32)) + _long(_numbers(suites))
    body += b"\x02\x01\x00" if offer.compression else b"\x01\x00"
    body += _long(extensions) if extensions else b""
    message = bytes([_CLIENT_HELLO]) + struct.pack(">I", len(body))[1:] + body
    # what stands in the record is no more than 1.0: middle boxes and old servers take offence at more
    return bytes([HANDSHAKE]) + struct.pack(">H", min(legacy, Version.TLS_1_0)) + _long(message)


def _extensions(offer: Offer) -> Iterator[bytes]:
    if offer.server_name:
        name = offer.server_name.encode("idna") if not offer.server_name.isascii() else offer.server_name.encode()
        yield _extension(_SNI, _long(b"\0" + _long(name)))
    yield _extension(_GROUPS, _long(_numbers(offer.groups)))
    yield _extension(_POINTS, b"\x01\x00")
    if offer.version >= Version.TLS_1_2:
        yield _extension(_SIGNATURES, _long(_numbers((*_SCHEMES, *_OLD_SCHEMES))))
    if offer.alpn:
        yield _extension(_ALPN, _long(b"".join(_short(name.encode()) for name in offer.alpn)))
    yield _extension(_EMS, b"")
    if offer.version is Version.TLS_1_3:
        yield _extension(_VERSIONS, b"\x02" + struct.pack(">H", Version.TLS_1_3))
        yield _extension(_PSK_MODES, b"\x01\x01")
        yield _extension(_KEY_SHARE, b"\0\0")


def first_flight(receive: Receive, *, whole: bool = False) -> Answer:
    """Read the ServerHello; with ``whole`` all that TLS 1.2 sends in clear after it.

    Errors: ``ConnectionError`` for what is not TLS; a server that hangs up is an answer.
    """
    answer = Answer()
    try:
        for kind, body in _messages(receive):
            if kind == ALERT:
                return replace(answer, alert=body[1] if len(body) > 1 else 0)
            message, content = body[0], body[4:]
            if message == _DONE:
                return answer
            answer = _read(answer, message, content)
            if answer.suite is None:
                raise ConnectionError("the server's first message is no ServerHello")
            if not whole or answer.version >= Version.TLS_1_3:
                return answer
    except (IndexError, struct.error) as exc:
        raise ConnectionError("the server's hello is cut or malformed") from exc
    except (EOFError, ConnectionResetError, BrokenPipeError):
        return replace(answer, closed=True) if answer.suite is None else answer
    return answer


def _messages(receive: Receive) -> Iterator[tuple[int, bytes]]:
    """Yield alerts, and handshake messages whole: they may share records, or fill several."""
    pending, total = b"", 0
    while True:
        kind, version, length = struct.unpack(">BHH", receive(5))
        if kind not in (ALERT, HANDSHAKE) or version >> 8 != 3:
            raise ConnectionError("the answer to a ClientHello is no TLS record")
        total += length
        if total > _LARGEST:
            raise ConnectionError(f"a first flight of more than {_LARGEST} bytes")
        fragment = receive(length)
        if kind == ALERT:
            yield ALERT, fragment
            return
        pending += fragment
        while len(pending) >= 4 and len(pending) >= (end := 4 + int.from_bytes(pending[1:4])):
            yield HANDSHAKE, pending[:end]
            pending = pending[end:]


def _read(answer: Answer, message: int, body: bytes) -> Answer:
    if message == _SERVER_HELLO:
        return _server_hello(body)
    if message == _CERTIFICATE:
        return replace(answer, certificates=tuple(_certificates(body)))
    if message == _KEY_EXCHANGE:
        return _key_exchange(answer, body)
    if message == _CERTIFICATE_REQUEST:
        return replace(answer, asks_certificate=True)
    return answer


def _server_hello(body: bytes) -> Answer:
    version, position = struct.unpack(">H", body[:2])[0], 2 + 32
    position += 1 + body[position]
    suite, compression = struct.unpack(">HB", body[position : position + 3])
    answer = Answer(version=version, suite=suite, compressed=bool(compression))
    for kind, content in _parts(body[position + 5 :]):
        if kind == _VERSIONS:
            answer = replace(answer, version=struct.unpack(">H", content)[0])
        elif kind == _KEY_SHARE:
            answer = replace(answer, group=struct.unpack(">H", content[:2])[0])
        elif kind == _ALPN:
            answer = replace(answer, alpn=content[3:].decode("ascii", "replace"))
        elif kind == _EMS:
            answer = replace(answer, extended_master_secret=True)
    return answer


def _parts(extensions: bytes) -> Iterator[tuple[int, bytes]]:
    while extensions:
        kind, length = struct.unpack(">HH", extensions[:4])
        yield kind, extensions[4 : 4 + length]
        extensions = extensions[4 + length :]


def _certificates(body: bytes) -> Iterator[bytes]:
    rest = body[3 : 3 + int.from_bytes(body[:3])]
    while rest:
        end = 3 + int.from_bytes(rest[:3])
        yield rest[3:end]
        rest = rest[end:]


def _key_exchange(answer: Answer, body: bytes) -> Answer:
    """Read the group of ECDHE, else the size of the prime of DHE; the two are told apart by their first byte."""
    if body[0] == _NAMED_CURVE:
        return replace(answer, group=struct.unpack(">H", body[1:3])[0])
    length = struct.unpack(">H", body[:2])[0]
    return replace(answer, dh_bits=int.from_bytes(body[2 : 2 + length]).bit_length())


def _extension(kind: int, content: bytes) -> bytes:
    return struct.pack(">H", kind) + _long(content)


def _numbers(codes: Sequence[int]) -> bytes:
    return struct.pack(f">{len(codes)}H", *codes)


def _short(content: bytes) -> bytes:
    return bytes([len(content)]) + content


def _long(content: bytes) -> bytes:
    return struct.pack(">H", len(content)) + content
