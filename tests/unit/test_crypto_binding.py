"""Two different places never have equal bytes: tenant, field, header, row and version are told apart by the AAD."""

from __future__ import annotations

import struct
from datetime import date
from decimal import Decimal
from enum import IntEnum, StrEnum
from itertools import product
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbsec.crypto import UNBOUND, Field, Unbound
from dbsec.crypto.binding import aad_prefix, label, row_part

TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
PARTS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.uuids(), TEXT, st.binary(max_size=9), st.sampled_from([0, "", b"", "0", b"0"])
)
ROWS = st.one_of(st.just(()), st.lists(PARTS, min_size=1, max_size=3).map(tuple))
VERSIONS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1]))
PLACES = st.tuples(TEXT, st.builds(Field, TEXT, TEXT), st.binary(max_size=8), ROWS, VERSIONS)
FEW = ["", "a", "aa"]
FEW_PARTS = [1, 97, "", "a", "1", b"", b"a", b"1", UUID(int=1), UUID(int=1).bytes, str(UUID(int=1))]


def aad(place) -> bytes:
    tenant, field, header, row, version = place
    return aad_prefix(tenant, field, header) + row_part(row or UNBOUND, version)


def typed(place) -> tuple:
    """1 and True, or 1 and 1.0, would be equal; here values differ where their types do."""
    *names, row, version = place
    return (*names, [(type(part), part) for part in row], version)


@given(PLACES, PLACES)
def test_different_places_have_different_bytes(one, other):
    assert (aad(one) == aad(other)) is (typed(one) == typed(other))


def test_places_that_differ_in_little_have_different_bytes():
    """All of some thousand: what is joined without its borders or its types meets here."""
    rows = [row for size in range(3) for row in product(FEW_PARTS, repeat=size)]
    headers = [b"", b"a", b"aa"]
    places = [("t", Field("c", "d"), b"h", row, version) for row in rows for version in (None, 1, 97)]
    places += [(t, Field(c, d), h, row, None) for t, c, d, h in product(FEW, FEW, FEW, headers) for row in rows[:12]]
    assert len({aad(place) for place in places}) == len(places)


def decoded(raw: bytes) -> list[bytes]:
    """Take length-prefixed parts apart again, from docs/formats.md."""
    parts = []
    while raw:
        (length,) = struct.unpack_from(">I", raw)
        assert len(raw) >= 4 + length
        parts.append(raw[4 : 4 + length])
        raw = raw[4 + length :]
    return parts


def decoded_row(raw: bytes) -> list[tuple[int, bytes]]:
    parts = []
    while raw:
        kind, length = struct.unpack_from(">BI", raw)
        assert len(raw) >= 5 + length
        parts.append((kind, raw[5 : 5 + length]))
        raw = raw[5 + length :]
    return parts


KINDS = {int: 1, UUID: 2, str: 3, bytes: 4}


def written(part) -> bytes:
    if isinstance(part, int):
        return struct.pack(">q", part)
    return part.bytes if isinstance(part, UUID) else part.encode() if isinstance(part, str) else part


@given(PLACES)
def test_the_bytes_can_be_taken_apart_again(place):
    tenant, field, header, row, version = place
    magic, *names, told_header, told_row = decoded(aad(place))
    assert (magic, told_header) == (b"dbsec/aad/1", header)
    assert [name.decode() for name in names] == [tenant, field.context, field.column]
    end = [] if version is None else [(0x7F, struct.pack(">q", version))]
    assert decoded_row(told_row) == [(KINDS[type(part)], written(part)) for part in row] + end


@given(PARTS, VERSIONS)
def test_an_id_is_the_tuple_of_itself(part, version):
    assert row_part(part, version) == row_part((part,), version)


def test_nothing_is_bound_only_where_that_is_said():
    assert row_part(UNBOUND) == b"\0\0\0\0"
    for row in ((), None, (None,)):
        with pytest.raises(Unbound):
            row_part(row)


@pytest.mark.parametrize(
    "row",
    [True, (1, False), 1.0, Decimal(1), date(2026, 1, 1), [1], (1, (2,)), bytearray(b"1"), object()],
    ids=lambda row: type(row).__name__,
)
def test_a_type_without_one_form_is_refused_without_its_value(row):
    with pytest.raises(Unbound) as caught:
        row_part(row)
    assert "2026" not in str(caught.value)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_a_number_that_is_no_int8_is_refused(number):
    for row, version in ((number, None), ((1, number), None), (1, number)):
        with pytest.raises(Unbound, match="8 bytes"):
            row_part(row, version)


def test_what_a_driver_makes_of_a_type_is_bound_as_the_type():
    class Id(IntEnum):
        FIRST = 1

    class Name(StrEnum):
        ANN = "ann"

    class DriverUuid(UUID):
        pass

    assert row_part(Id.FIRST) == row_part(1)
    assert row_part(Name.ANN) == row_part("ann")
    assert row_part(DriverUuid(int=7)) == row_part(UUID(int=7))


def test_no_two_columns_derive_their_keys_under_one_label():
    columns = list(product([b"dbsec/1/siv", b"dbsec/1/siva"], FEW, FEW, FEW))
    labels = {label(purpose, tenant, Field(*field)) for purpose, tenant, *field in columns}
    assert len(labels) == len(columns)
