"""What stands after SET is split at its commas, and at no other."""

from __future__ import annotations

import pytest

from dbsec.backfill.assignments import parse
from dbsec.errors import UsageError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a = 1", [("a", "1")]),
        ("email_normalized = lower(btrim(email))", [("email_normalized", "lower(btrim(email))")]),
        ("a = 1, b = f(x, y), c = ARRAY[1, 2]", [("a", "1"), ("b", "f(x, y)"), ("c", "ARRAY[1, 2]")]),
        ('A = 1, "B" = 2, "c""d" = 3', [("a", "1"), ("B", "2"), ('c"d', "3")]),
        ("a = ',', b = ')'", [("a", "','"), ("b", "')'")]),
        ("a = E'\\',', b = 'it''s, so'", [("a", "E'\\','"), ("b", "'it''s, so'")]),
        ("a = $$x, y$$, b = $q$ $$, $q$", [("a", "$$x, y$$"), ("b", "$q$ $$, $q$")]),
        ("a = 1 -- , c = 3\n, b = 2", [("a", "1"), ("b", "2")]),
        ("a = 1 /* , /* , */ , */, b = 2", [("a", "1"), ("b", "2")]),
        ("a = b = c", [("a", "b = c")]),
        ("(a, b) = (x, f(y, z))", [("a", "x"), ("b", "f(y, z)")]),
        ("(a, b) = ROW (x, y), c = 3", [("a", "x"), ("b", "y"), ("c", "3")]),
        ("(a, b) = (SELECT 1, 2)", [("a", None), ("b", None)]),
        ("a = DEFAULT, b = (SELECT x FROM y)", [("a", None), ("b", "(SELECT x FROM y)")]),
        ("ärger = 1", [("ärger", "1")]),
        ("a = 10::numeric(10, 2)", [("a", "10::numeric(10, 2)")]),
    ],
)
def test_each_column_has_its_expression(text, found):
    assert [(one.column, one.expression) for one in parse(text)] == found


def test_an_expression_says_what_it_mentions():
    (one,) = parse("n = app.f(\"Other\", N, 'text', 1e5) -- m")
    assert one.names == {"app", "f", "Other", "n"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a", "is not what stands after SET"),
        ("a =", "is not what stands after SET"),
        ("a = 1,", "is not what stands after SET"),
        ("a[1] = 2", "writes a part of a column"),
        ("a.b = 2", "writes a part of a column"),
        ("a = (1", "does not close"),
    ],
)
def test_what_is_no_set_is_refused(text, why):
    with pytest.raises(UsageError, match=why):
        parse(text)
