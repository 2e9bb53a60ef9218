"""A cursor comes back as it was, and nothing else is accepted."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbsec.errors import UsageError
from dbsec.pg.keyset import FORMAT, MAX_CHARS, CursorError, Cursors, Value

KEY = b"k" * 32
SCOPE = ("orders by created_at, id", "tenant 1")
CURSORS = Cursors(KEY, SCOPE)
GOLDEN = "ZGsBKhmgqot7JBdoin2OLRmnO-xuoobxB-0Xl3LO9-05eBw" + (
    "AAAAJdAAGYO6oKspAAAAACWkAAAAAAAAAKgAAAAJzYQAAABF1bx9_DgAAQACAAAAAAAAAAQ"
)
MOMENT = datetime(2026, 11, 23, 10, 0, 0, 123456, tzinfo=UTC)

# fixed offsets: two zones never agree on a moment that a clock change repeats (PEP 495)
offsets = st.timedeltas(timedelta(hours=-23), timedelta(hours=23))
values = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=st.builds(timezone, offsets)),
    st.uuids(),
)


@given(st.lists(values, min_size=1, max_size=3))
def test_round_trip(row: list[Value]) -> None:
    types: list[Any] = [type(value) for value in row]
    assert list(CURSORS.decode(CURSORS.encode(*row), *types)) == row


@given(values, st.data())
def test_no_changed_character_is_accepted(value: Value, data: st.DataObject) -> None:
    text = CURSORS.encode(value)
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("ABCxyz019-_=+/ \u00e9").filter(lambda c: c != text[at]))
    column: type[Any] = type(value)
    with pytest.raises(CursorError):
        CURSORS.decode(text[:at] + letter + text[at + 1 :], column)


@given(st.text(max_size=200))
def test_no_text_of_others_is_accepted(text: str) -> None:
    with pytest.raises(CursorError):
        CURSORS.decode(text, int)


def test_types_are_told_to_the_type_checker() -> None:
    created_at, number = CURSORS.decode(CURSORS.encode(MOMENT, 7), datetime, int)
    assert (created_at.year + number, created_at.tzinfo) == (2033, UTC)


@pytest.mark.parametrize(
    ("key", "scope"),
    [
        (b"x" * 32, SCOPE),
        (KEY, ("orders by created_at, id", "tenant 2")),
        (KEY, ("orders by created_at, idt", "enant 1")),
        (KEY, SCOPE[:1]),
        (KEY, ()),
    ],
)
def test_another_key_or_scope_refuses(key: bytes, scope: tuple[str, ...]) -> None:
    with pytest.raises(CursorError, match="changed, or belongs to another list"):
        Cursors(key, scope).decode(CURSORS.encode(1), int)


@pytest.mark.parametrize("types", [(), (str,), (int, int), (UUID,)])
def test_other_columns_refuse(types: Any) -> None:
    with pytest.raises(CursorError, match="other columns"):
        CURSORS.decode(CURSORS.encode(1), *types)


@pytest.mark.parametrize(
    "value",
    [
        *(2**63, -(2**63) - 1, True, None, 1.5, b"raw", "\ud800", datetime(2026, 1, 1)),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
    ],
)
def test_a_value_that_would_not_come_back_is_refused(value: object) -> None:
    with pytest.raises(CursorError):
        CURSORS.encode(value)  # type: ignore[arg-type]


def test_a_newer_format_is_named_and_is_the_same_class() -> None:
    raw = bytearray(base64.urlsafe_b64decode(CURSORS.encode(1) + "=="))
    raw[2] = FORMAT + 1
    with pytest.raises(CursorError, match=r"newer dbsec \(format 2, this one knows 1\)"):
        CURSORS.decode(base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("="), int)


def test_length_is_bounded_both_ways() -> None:
    with pytest.raises(CursorError, match="characters"):
        CURSORS.encode("x" * MAX_CHARS)
    with pytest.raises(CursorError, match="characters"):
        CURSORS.decode("A" * (MAX_CHARS + 1), int)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 16 bytes"):
        Cursors(b"short", SCOPE)


def test_the_format_does_not_drift() -> None:
    row = (MOMENT, 42, "a", UUID("6f1f7f0e-0000-4000-8000-000000000001"))
    assert CURSORS.encode(*row) == GOLDEN
