"""A value is taken apart as it was put together, and whatever is not one is refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbsec.crypto.format import (
    COMMITMENT_BYTES,
    MOST_WRAPPED,
    NONCE_BYTES,
    OVERHEAD_BYTES,
    TAG_BYTES,
    Algorithm,
    header_of,
    inline_header,
    parse,
)

KEY_IDS = st.integers(0, 2**32 - 1)
BY_REFERENCE = st.sampled_from([Algorithm.AES_256_GCM, Algorithm.AES_256_SIV])
COMMITMENT = bytes(range(COMMITMENT_BYTES))


@given(BY_REFERENCE, KEY_IDS, st.binary(min_size=NONCE_BYTES + TAG_BYTES, max_size=80))
def test_a_value_by_reference_comes_apart_again(algorithm, key_id, body):
    found = parse(header_of(algorithm, key_id) + body)
    assert (found.version, found.algorithm, found.key_id) == (1, algorithm, key_id)
    assert (found.header, found.body) == (header_of(algorithm, key_id), body)
    assert (found.wrapped, found.commitment) == (b"", b"")


@given(st.binary(max_size=300), st.binary(min_size=NONCE_BYTES + TAG_BYTES, max_size=80))
def test_an_inline_value_comes_apart_again(wrapped, body):
    found = parse(inline_header(wrapped, COMMITMENT) + body)
    assert (found.algorithm, found.key_id) == (Algorithm.AES_256_GCM_INLINE, None)
    assert (found.wrapped, found.commitment, found.body) == (wrapped, COMMITMENT, body)
    assert found.header + found.body == inline_header(wrapped, COMMITMENT) + body


def test_the_headers_are_those_of_the_document():
    assert header_of(Algorithm.AES_256_GCM, 7).hex() == "d51100000007"
    assert header_of(Algorithm.AES_256_SIV, 0xFFFFFFFF).hex() == "d512ffffffff"
    assert inline_header(b"ab", COMMITMENT).hex() == "d51300026162" + COMMITMENT.hex()
    assert len(header_of(Algorithm.AES_256_GCM, 7)) + NONCE_BYTES + TAG_BYTES == OVERHEAD_BYTES == 34


SHORTEST = [
    header_of(Algorithm.AES_256_GCM, 7) + bytes(28),
    header_of(Algorithm.AES_256_SIV, 7) + bytes(16),
    inline_header(b"", COMMITMENT) + bytes(28),
    inline_header(b"wrapped", COMMITMENT) + bytes(28),
]


@pytest.mark.parametrize("shortest", SHORTEST, ids=lambda raw: raw[:2].hex())
def test_the_shortest_value_is_one_and_each_shorter_one_is_none(shortest):
    parse(shortest)
    for size in range(len(shortest)):
        with pytest.raises(ValueError, match=r"cut off|does not begin"):
            parse(shortest[:size])


@pytest.mark.parametrize("second", [n for n in range(256) if n not in (0x11, 0x12, 0x13)])
def test_no_other_version_or_algorithm_is_known(second):
    with pytest.raises(ValueError, match=f"{'algorithm' if second >> 4 == 1 else 'version'} .* is not known"):
        parse(bytes([0xD5, second]) + bytes(200))


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xd5", b"\xd5\x11", b"\xd5\x12", b"\xd5\x13"]))
def test_any_bytes_are_a_value_or_refused(rest, start):
    raw = start + rest
    try:
        found = parse(raw)
    except ValueError:
        return
    assert found.header + found.body == raw
    assert len(found.body) >= TAG_BYTES


@given(st.text(min_size=1))
def test_text_is_never_taken_for_a_value(text):
    with pytest.raises(ValueError, match=r"does not begin with d5|is not known|cut off"):
        parse(text.encode(errors="ignore"))


def test_text_that_begins_with_the_magic_is_no_value_either():
    """D5 begins two bytes of UTF-8, and the second of them is never 11, 12 or 13."""
    for follows in range(0x80, 0xC0):
        start = bytes([0xD5, follows])
        assert start.decode()
        with pytest.raises(ValueError, match="version"):
            parse(start + b"a" * 200)


def test_a_wrapped_dek_that_is_too_long_has_no_place():
    parse(inline_header(bytes(MOST_WRAPPED), COMMITMENT) + bytes(28))
    with pytest.raises(ValueError, match="65536"):
        inline_header(bytes(MOST_WRAPPED + 1), COMMITMENT)
