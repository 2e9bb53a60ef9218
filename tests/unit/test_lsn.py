"""Positions in the write-ahead log: text, order and distance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbsec.pg.lsn import Lsn

positions = st.integers(0, 2**64 - 1)


@given(positions)
def test_round_trip(value):
    assert Lsn.parse(str(Lsn(value))).value == value
    assert Lsn.parse(str(Lsn(value)).lower()) == Lsn(value)


@given(positions, positions)
def test_order_and_distance_are_those_of_the_numbers(a, b):
    assert (Lsn(a) < Lsn(b), Lsn(a) == Lsn(b), Lsn(a) >= Lsn(b)) == (a < b, a == b, a >= b)
    assert Lsn(a) - Lsn(b) == a - b
    assert (hash(Lsn(a)) == hash(Lsn(b))) or a != b


def test_it_is_written_as_postgresql_writes_it():
    assert str(Lsn(0x16_B374D848)) == "16/B374D848"
    assert str(Lsn(0)) == "0/0"


@pytest.mark.parametrize(
    "text", ["", "/", "16", "16/", "/B3", "16/B374D8480", "1 6/0", "16/0 ", "0x1/0", "-1/0", "g/0"]
)
def test_what_is_no_position_is_refused(text):
    with pytest.raises(ValueError, match="is not an LSN"):
        Lsn.parse(text)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_number_outside_64_bits_is_refused(value):
    with pytest.raises(ValueError, match="has 64 bits"):
        Lsn(value)


def test_it_is_not_a_number():
    assert Lsn(1) != 1
