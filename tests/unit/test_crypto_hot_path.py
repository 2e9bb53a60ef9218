"""The short ways of single and bulk calls bind and count as the long ones do."""

from __future__ import annotations

import enum
import itertools
import os
import threading
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbsec.crypto import UNBOUND, DecryptionFailed, Field, Unbound
from dbsec.crypto.binding import aads, row_part
from dbsec.crypto.column import Column
from dbsec.crypto.dek import Dek
from dbsec.crypto.invocations import Invocations, Refused

PHONE = Field("app.users", "phone")
INT8 = st.integers(-(2**63), 2**63 - 1)
ROW = st.one_of(INT8, st.uuids(), st.text(max_size=8), st.binary(max_size=8), st.just(UNBOUND), st.tuples(INT8, INT8))
ALIKE = st.one_of(st.lists(INT8), st.lists(st.uuids()), st.lists(ROW))


class Id(int):
    """A driver's own integer."""


class Kind(enum.IntEnum):
    ONE = 1


def column(invocations: Invocations | None = None) -> Column:
    dek = Dek(bytearray(range(32)), bytes(32))
    return Column(dek, 7, PHONE, "t1", invocations or Invocations(lambda _: True), expires=0)


# --- the row


@given(ALIKE)
def test_many_rows_have_the_parts_that_each_has_alone(rows):
    assert aads(b"prefix", rows) == aads(b"prefix", iter(rows)) == [b"prefix" + row_part(row) for row in rows]


@given(st.one_of(INT8, st.uuids()))
def test_an_id_is_bound_alike_alone_and_as_a_tuple_of_one(row):
    assert row_part(row) == row_part((row,))


@given(INT8)
def test_an_integer_of_a_driver_is_an_integer(row):
    assert aads(b"", [Id(row), row]) == [row_part(row)] * 2
    assert row_part(Kind.ONE) == row_part(1)


@pytest.mark.parametrize("row", [2**63, -(2**63) - 1, True, False, None, 1.0, ()])
def test_what_is_no_id_is_refused_alone_and_among_others(row):
    many = (lambda r: aads(b"", [1, r]), lambda r: aads(b"", [r, r]))
    for act in (row_part, *many, lambda r: column().encrypt(b"", r)):
        with pytest.raises(Unbound):
            act(row)


@given(ROW, st.binary(max_size=40), st.one_of(st.none(), INT8))
def test_single_and_bulk_read_each_other(row, value, version):
    both = column()
    versions = None if version is None else [version]
    single = both.encrypt(value, row, version)
    (bulk,) = both.encrypt_many([value], [row], versions)
    for blob in (single, bulk):
        assert both.decrypt(blob, row, version) == value
        assert both.decrypt_many([blob], [row], versions) == [value]


@given(INT8, INT8)
def test_a_value_of_another_row_is_refused_by_both(row, other):
    both = column()
    blob = both.encrypt(b"value", row)
    for act in (lambda r: both.decrypt(blob, r), lambda r: both.decrypt_many([blob], [r])):
        if other == row:
            act(other)
        else:
            with pytest.raises(DecryptionFailed):
                act(other)
    for act in (lambda: both.decrypt(blob, row, 0), lambda: both.decrypt(blob, (row,), 0)):
        with pytest.raises(DecryptionFailed):
            act()


# --- nonces and what they cost


def leasing(most: int) -> tuple[Invocations, list[int]]:
    """Return invocations of a key of which ``most`` are left, and what was leased of them."""
    leased: list[int] = []

    def lease(count: int) -> bool:
        granted = sum(leased) + count <= most
        if granted:
            leased.append(count)
        return granted

    return Invocations(lease), leased


def exhausted(one: Column) -> int:
    """Encrypt until the key is refused; returns how often that was."""
    for made in itertools.count():
        try:
            one.encrypt(b"", 1)
        except Refused:
            return made
    raise AssertionError


def nonce_of(blob: bytes) -> bytes:
    return blob[6:18]


def test_no_two_threads_get_one_nonce():
    invocations, leased = leasing(2**32)
    one = column(invocations)
    found: list[bytes] = []
    start = threading.Barrier(8)

    def encrypt() -> None:
        start.wait()
        blobs = [one.encrypt(b"v", 1) for _ in range(2000)]
        blobs += one.encrypt_many([b"v"] * 500, range(500))
        found.extend(map(nonce_of, blobs))

    threads = [threading.Thread(target=encrypt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(found) == 8 * 2500
    assert len(found) + len(invocations.ready) <= sum(leased)


@given(most=st.integers(0, 5000), batches=st.lists(st.integers(1, 400), max_size=40))
def test_the_limit_is_never_passed(most, batches):
    invocations, leased = leasing(most)
    one = column(invocations)
    made = 0
    for size in batches:
        try:
            one.encrypt(b"", 1)
            made += 1
            made += len(one.encrypt_many([b""] * size, range(size)))
        except Refused:
            break
    assert made <= sum(leased) <= most


def test_the_end_of_a_key_is_refused_for_good():
    invocations, leased = leasing(4096)
    one = column(invocations)
    assert 4096 - 256 < exhausted(one) <= 4096 == sum(leased)
    with pytest.raises(Refused):
        one.encrypt(b"", 1)


def test_a_key_that_is_used_once_has_few_nonces_ready():
    """A keyring holds 10,000 keys."""
    one = column(invocations := Invocations(lambda _: True))
    one.encrypt(b"", 1)
    assert len(invocations.ready) < 8
    ready = []
    for _ in range(2000):
        one.encrypt(b"", 1)
        ready.append(len(invocations.ready))
    assert max(ready) == 255


def test_a_fork_takes_no_nonces_with_it():
    one = column(invocations := Invocations(lambda _: True))
    one.encrypt(b"", 1)
    ready = list(invocations.ready)
    assert ready
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, b"".join(nonce_of(one.encrypt(b"", 1)) for _ in ready))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        theirs = pipe.read()
    os.waitpid(child, 0)
    assert len(theirs) == 12 * len(ready)
    assert not {theirs[at : at + 12] for at in range(0, len(theirs), 12)} & set(ready)
    assert nonce_of(one.encrypt(b"", 1)) in ready


@given(st.integers(0, 300))
def test_uuids_and_texts_of_them_are_different_rows(number):
    row = UUID(int=number)
    one = column()
    with pytest.raises(DecryptionFailed):
        one.decrypt(one.encrypt(b"v", row), str(row))
