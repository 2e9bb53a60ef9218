"""The code points of TLS: versions, cipher suites and what is wrong with them, groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import cache
from importlib.resources import files


class Version(IntEnum):
    """Protocol versions as they stand in a hello."""

    SSL_3 = 0x300
    TLS_1_0 = 0x301
    TLS_1_1 = 0x302
    TLS_1_2 = 0x303
    TLS_1_3 = 0x304

    @property
    def label(self) -> str:
        """The name that PostgreSQL uses: ``TLSv1.2``, and ``TLSv1`` for 1.0."""
        return {0x300: "SSLv3", 0x301: "TLSv1", 0x302: "TLSv1.1", 0x303: "TLSv1.2", 0x304: "TLSv1.3"}[self]


class Fault(StrEnum):
    """Why a suite should not be offered; a policy names these in ``forbid``."""

    NULL = "null"
    ANONYMOUS = "anonymous"
    EXPORT = "export"
    RC4 = "rc4"
    SMALL_BLOCK = "64-bit-block"
    MD5 = "md5"
    SHORT_TAG = "short-tag"
    CBC = "cbc"
    STATIC_KEY = "no-forward-secrecy"
    UNKNOWN = "unknown"


WHY: Mapping[Fault, str] = {
    Fault.NULL: "nothing is encrypted",
    Fault.ANONYMOUS: "nobody proves who he is: any man in the middle will do",
    Fault.EXPORT: "keys of 40 or 56 bits (FREAK, CVE-2015-0204)",
    Fault.RC4: "the key stream is biased (RFC 7465 forbids it)",
    Fault.SMALL_BLOCK: "blocks of 64 bits collide after some 32 GiB (Sweet32, CVE-2016-2183)",
    Fault.MD5: "records are authenticated by HMAC-MD5",
    Fault.SHORT_TAG: "tags of 64 bits (CCM_8)",
    Fault.CBC: "padding oracles (Lucky Thirteen, CVE-2013-0169)",
    Fault.STATIC_KEY: "who gets the key later reads all that was recorded",
    Fault.UNKNOWN: "a code point that IANA has not assigned",
}

_SMALL_BLOCKS = ("_DES_", "_DES40_", "_3DES_", "_RC2_", "_IDEA_", "_WITH_MAGMA_", "_28147_")
_FORWARD = ("TLS_DHE_", "TLS_ECDHE_", "TLS_ECCPWD_", "TLS_DH_anon_", "TLS_ECDH_anon_")
_EXPORTED = ("_EXPORT", "_DES40_", "_RC4_40_", "_RC2_CBC_40_")


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher suite by code point, with IANA's name; ``0x....`` where there is none."""

    code: int
    name: str

    @property
    def faults(self) -> frozenset[Fault]:
        """What is wrong with it; empty for an AEAD with forward secrecy."""
        return frozenset(fault for fault in Fault if _HAS[fault](self))

    @property
    def is_tls_1_3(self) -> bool:
        """Suites of TLS 1.3 name no key exchange, those of RFC 9367 apart, and belong to no other version."""
        return self.name.startswith("TLS_") and ("_WITH_" not in self.name or "_MGM_" in self.name)


def _is_null(suite: Suite) -> bool:
    return "_NULL_" in suite.name or suite.name in ("TLS_SHA256_SHA256", "TLS_SHA384_SHA384")


def _is_cbc(suite: Suite) -> bool:
    return "_CBC_" in suite.name


def _is_static(suite: Suite) -> bool:
    return not suite.is_tls_1_3 and "_WITH_" in suite.name and not suite.name.startswith(_FORWARD)


_HAS: Mapping[Fault, Callable[[Suite], bool]] = {
    Fault.NULL: _is_null,
    Fault.ANONYMOUS: lambda s: "_anon_" in s.name or s.name == "TLS_NULL_WITH_NULL_NULL",
    Fault.EXPORT: lambda s: any(mark in s.name for mark in _EXPORTED),
    Fault.RC4: lambda s: "_RC4_" in s.name,
    Fault.SMALL_BLOCK: lambda s: any(mark in s.name for mark in _SMALL_BLOCKS),
    Fault.MD5: lambda s: s.name.endswith("_MD5"),
    Fault.SHORT_TAG: lambda s: "_CCM_8" in s.name,
    Fault.CBC: _is_cbc,
    Fault.STATIC_KEY: _is_static,
    Fault.UNKNOWN: lambda s: s.name.startswith("0x"),
}

# Source: IANA, "TLS Supported Groups" (tls-parameters-8). Bits of security after NIST SP 800-57 part 1, table 2.
GROUPS: Mapping[int, tuple[str, int]] = {
    4588: ("X25519MLKEM768", 128),
    4587: ("SecP256r1MLKEM768", 128),
    4589: ("SecP384r1MLKEM1024", 192),
    29: ("x25519", 128),
    30: ("x448", 224),
    23: ("secp256r1", 128),
    24: ("secp384r1", 192),
    25: ("secp521r1", 256),
    31: ("brainpoolP256r1tls13", 128),
    32: ("brainpoolP384r1tls13", 192),
    33: ("brainpoolP512r1tls13", 256),
    26: ("brainpoolP256r1", 128),
    27: ("brainpoolP384r1", 192),
    28: ("brainpoolP512r1", 256),
    256: ("ffdhe2048", 112),
    257: ("ffdhe3072", 128),
    258: ("ffdhe4096", 152),
    259: ("ffdhe6144", 176),
    260: ("ffdhe8192", 192),
    22: ("secp256k1", 128),
    20: ("secp224k1", 112),
    21: ("secp224r1", 112),
    18: ("secp192k1", 96),
    19: ("secp192r1", 96),
    15: ("secp160k1", 80),
    16: ("secp160r1", 80),
    17: ("secp160r2", 80),
    1: ("sect163k1", 80),
    3: ("sect163r2", 80),
    6: ("sect233k1", 112),
    7: ("sect233r1", 112),
    9: ("sect283k1", 128),
    10: ("sect283r1", 128),
    11: ("sect409k1", 192),
    12: ("sect409r1", 192),
    13: ("sect571k1", 256),
    14: ("sect571r1", 256),
}


@cache
def _names() -> Mapping[int, str]:
    text = files(__package__).joinpath("suites.txt").read_text("utf-8")
    rows = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {int(code, 16): name for code, name in rows}


def suite(code: int) -> Suite:
    """Name a code point."""
    return Suite(code, _names().get(code, f"0x{code:04x}"))


@cache
def offered(version: Version) -> tuple[int, ...]:
    """All code points that a ClientHello of this version offers.

    Below TLS 1.3 the ranges of the old suites are offered whole, so that what has no name is found too.
    """
    named = [code for code in _names() if suite(code).is_tls_1_3 == (version is Version.TLS_1_3)]
    if version is Version.TLS_1_3:
        return tuple(named)
    signals = {0x00FF, 0x5600}  # renegotiation_info and fallback: signals, no suites
    ranges = {code for code in (*range(0x0100), *range(0xC001, 0xC0B0)) if not suite(code).is_tls_1_3}
    return tuple(sorted({*named, *ranges} - signals, reverse=True))
