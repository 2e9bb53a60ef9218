"""Whatever bytes stand in a column: a value of ours comes back as it went in, and all else is refused in one way."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as some
from tests.envelopes import ACME, PHONE, Bench, Refusal, the_one_refusal

from dbsec.crypto import UNBOUND, BlindIndex, Normal, Unbound
from dbsec.crypto.binding import row_part
from dbsec.crypto.format import MAGIC, VERSION, Algorithm, parse

INT8 = some.integers(-(2**63), 2**63 - 1)
PART = INT8 | some.uuids() | some.text() | some.binary()
ROW = PART | some.tuples(PART, PART) | some.tuples(PART, PART, PART) | some.just(UNBOUND)
TENANT = some.text().filter(lambda text: "\0" not in text)
OLD = some.none() | INT8
START = some.sampled_from([bytes([MAGIC, VERSION << 4 | kind]) for kind in Algorithm])
# what begins like a value gets further than what does not
BLOB = some.binary(max_size=300) | some.builds(bytes.__add__, START, some.binary(max_size=300))


@pytest.fixture(scope="module")
def bench():
    with tempfile.TemporaryDirectory() as folder:
        yield Bench(Path(folder))


@pytest.fixture(scope="module")
def valid(bench):
    """Return one value of each storage, and two more under another key."""
    made = bench.envelope
    return [
        made.encrypt(b"a value of some length", PHONE, tenant=ACME, row=1),
        made.encrypt_deterministic(b"a value of some length", PHONE, tenant=ACME),
        made.encrypt_inline(b"a value of some length", PHONE, tenant=ACME, row=1),
        made.encrypt(b"", PHONE, tenant="globex", row=1),
        made.encrypt_deterministic(b"", PHONE, tenant="globex"),
    ]


@given(BLOB)
@example(b"")
@example(b"\xd5\x13\xff\xff")
@example(b"\xd5\x13\x00\x00" + bytes(32 + 12 + 16))
def test_the_parser_takes_a_value_apart_or_says_that_it_is_none(blob):
    try:
        parsed = parse(blob)
    except ValueError:
        return
    assert parsed.header + parsed.body == blob
    assert blob[1] == parsed.version << 4 | parsed.algorithm
    if parsed.algorithm is Algorithm.AES_256_GCM_INLINE:
        assert parsed.header[4:] == parsed.wrapped + parsed.commitment
        assert (parsed.key_id, len(parsed.commitment)) == (None, 32)
    else:
        assert parsed.key_id == int.from_bytes(blob[2:6], "big")
    assert len(parsed.body) >= (16 if parsed.algorithm is Algorithm.AES_256_SIV else 28)


@given(BLOB, ROW, OLD)
def test_what_nobody_encrypted_is_refused(bench, blob, row, version):
    many = {"tenant": ACME, "rows": [row], "versions": [version]}
    seen = {
        Refusal.of(bench.envelope.decrypt, blob, PHONE, tenant=ACME, row=row, version=version),
        Refusal.of(bench.envelope.decrypt, memoryview(bytearray(blob)), PHONE, tenant=ACME, row=row, version=version),
        Refusal.of(bench.envelope.decrypt_many, [bytearray(blob)], PHONE, **many),
    }
    assert seen == {the_one_refusal(PHONE)}


@given(some.lists(BLOB, min_size=1, max_size=5))
def test_no_page_of_them_is_accepted(bench, blobs):
    seen = Refusal.of(bench.envelope.decrypt_many, blobs, PHONE, tenant=ACME, rows=range(len(blobs)))
    assert seen == the_one_refusal(PHONE)


@given(which=some.integers(0, 4), edit=some.data())
def test_a_value_that_was_edited_is_refused(bench, valid, which, edit):
    value = valid[which]
    start = edit.draw(some.integers(0, len(value)))
    end = edit.draw(some.integers(start, len(value)))
    other = edit.draw(some.sampled_from(valid))
    put = edit.draw(some.binary(max_size=40) | some.just(other[start:]) | some.just(other[:end]))
    edited = value[:start] + put + value[end:]
    assume(edited not in valid)
    assert Refusal.of(bench.envelope.decrypt, edited, PHONE, tenant=ACME, row=1) == the_one_refusal(PHONE)


@given(some.binary(max_size=2000), ROW, TENANT, OLD)
def test_what_goes_in_comes_out(bench, value, row, tenant, version):
    at = {"tenant": tenant, "row": row, "version": version}
    blob = bench.envelope.encrypt(value, PHONE, **at)
    assert len(blob) == len(value) + 34
    assert bench.envelope.decrypt(blob, PHONE, **at) == value
    assert bench.envelope.decrypt(bytearray(blob), PHONE, **at) == value
    inline = bench.envelope.encrypt_inline(value, PHONE, **at)
    assert bench.envelope.decrypt(inline, PHONE, **at) == value
    siv = bench.envelope.encrypt_deterministic(value, PHONE, tenant=tenant)
    assert len(siv) == len(value) + 22
    pages = {"tenant": tenant, "rows": [row] * 3, "versions": [version] * 3}
    assert bench.envelope.decrypt_many([blob, inline, siv], PHONE, **pages) == [value] * 3


@given(ROW, OLD, ROW, OLD)
@example((1, 2), None, (1,), 2)
@example("", None, b"", None)
@example("1", None, ("1",), 1)
def test_two_rows_are_never_bound_alike(mine, my_version, theirs, their_version):
    assume((_as_parts(mine), my_version) != (_as_parts(theirs), their_version))
    assert row_part(mine, my_version) != row_part(theirs, their_version)


def _as_parts(row):
    parts = () if row is UNBOUND else row if isinstance(row, tuple) else (row,)
    return [(type(part), part) for part in parts]


@given(
    some.none()
    | some.floats()
    | some.booleans()
    | some.dates()
    | some.decimals()
    | some.just(())
    | some.lists(PART)
    | some.tuples(PART, some.none())
    | some.tuples(some.tuples(PART))
    | some.integers(min_value=2**63)
    | some.text(some.characters(categories=["Cs"]), min_size=1)
)
def test_what_has_no_one_form_is_no_row(bench, row):
    with pytest.raises(Unbound):
        row_part(row)
    with pytest.raises(Unbound):
        bench.envelope.encrypt(b"x", PHONE, tenant=ACME, row=row)
    with pytest.raises(Unbound):
        bench.envelope.encrypt_many([b"x", b"y"], PHONE, tenant=ACME, rows=[1, row])


@given(some.text(some.characters(exclude_categories=["Cs"])), some.sampled_from(Normal), some.integers(1, 63))
def test_a_blind_index_fits_its_column(bench, text, normal, width):
    narrow, wide = BlindIndex(width, normal=normal), BlindIndex(64 + width // 8 * 8, normal=normal)
    number = bench.envelope.blind_index(text, PHONE, narrow, tenant=ACME)
    raw = bench.envelope.blind_index(text, PHONE, wide, tenant=ACME)
    assert isinstance(number, int)
    assert isinstance(raw, bytes)
    assert 0 <= number < 2**width
    assert len(raw) * 8 == wide.bits
    assert number == int.from_bytes(raw[:8], "big") >> (64 - width)


def test_random_bytes_with_an_at_sign_are_no_address_in_clear() -> None:
    from dbsec.crypto.attacked import in_clear

    assert in_clear("a@example.org")
    assert in_clear(b"+4915112345678")
    assert not in_clear(b"\xd5\x12\x00\x00@\x07.\x9c")
