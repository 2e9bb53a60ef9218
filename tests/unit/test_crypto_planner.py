"""The planner of blind indexes: its forecast against real HMACs, its refusals, and that it goes one way."""

from __future__ import annotations

import json
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dbsec.cli.commands.crypto import COMMAND
from dbsec.crypto import BlindIndex, Field, ModeRefused, Profile
from dbsec.crypto.dek import Dek
from dbsec.crypto.lookup import Lookup
from dbsec.crypto.planner import (
    EXACT_BITS,
    UNIQUE_BITS,
    Aim,
    coincidences,
    hiding_bits,
    low_entropy,
    plan_deterministic,
    plan_index,
)
from dbsec.crypto.statistics import ColumnStatistics
from dbsec.errors import UsageError

NAMES = ColumnStatistics(rows=1_000_000, distinct=50_000, top_frequency=0.004)
PLACE = Field("app.users", "name")


def indexes(distinct: int, bits: int) -> list[int]:
    """Real blind indexes of that many values. The key is fixed, so that no run differs from another."""
    lookup = Lookup(Dek(bytearray(32), bytes(32)), 1, PLACE, "t", expires=0)
    found = [lookup.index(str(n).encode(), BlindIndex(bits)) for n in range(distinct)]
    return [index for index in found if isinstance(index, int)]


@pytest.mark.parametrize(("distinct", "bits"), [(4096, 4), (4096, 8), (5000, 11), (20_000, 13), (3000, 20)])
def test_real_hmacs_coincide_as_often_as_forecast(distinct, bits):
    met = Counter(indexes(distinct, bits))
    assert max(met) < 2**bits
    measured = sum(count * (count - 1) for count in met.values()) / distinct
    # pairs meet independently two by two: the variance of their number is that of a binomial one
    pairs, odds = distinct * (distinct - 1) / 2, 2.0**-bits
    sigma = 2 * math.sqrt(pairs * odds * (1 - odds)) / distinct
    assert abs(measured - coincidences(distinct, bits)) < 5 * sigma
    if bits < 12:
        assert abs(measured / coincidences(distinct, bits) - 1) < 0.05


def test_a_lookup_fetches_as_many_strangers_as_forecast():
    stats = ColumnStatistics(rows=40_000, distinct=4000)
    chosen = plan_index(stats, unique=False).recommended
    assert (chosen.aim, chosen.bits) == (Aim.HIDING, 10)
    of_value = indexes(4000, 10)
    draw = random.Random(5)
    rows = [draw.randrange(4000) for _ in range(40_000)]
    in_index = Counter(of_value[value] for value in rows)
    of_its_own = Counter(rows)
    vain = sum(in_index[of_value[value]] - of_its_own[value] for value in range(4000)) / 4000
    assert vain == pytest.approx(chosen.strangers_per_lookup, rel=0.1)


@given(st.integers(1, 2**50))  # above, a float no longer tells (D-1) from D
def test_an_index_that_hides_keeps_coincidences_between_two_and_the_root(distinct):
    bits = hiding_bits(distinct)
    if bits is None:
        assert distinct < 16
    else:
        met = coincidences(distinct, bits)
        assert met >= 2
        assert met <= math.sqrt(distinct) * (1 + 1e-9)
        # and the next bit would leave less than two, or no room in a bigint
        assert coincidences(distinct, bits + 1) < 2 or bits == EXACT_BITS


@given(st.integers(16, 2**62), st.integers(0, 2**62))
def test_more_values_never_take_fewer_bits(distinct, more):
    assert hiding_bits(distinct) <= hiding_bits(distinct + more)


@given(st.integers(1000, 10**9), st.integers(1, 200), st.integers(1, 62))
def test_more_bits_fetch_less_in_vain_and_never_meet_more(distinct, repeats, bits):
    stats = ColumnStatistics(rows=distinct * repeats, distinct=distinct)
    hiding, exact, full = plan_index(stats, unique=False).options
    assert hiding.bits < exact.bits < full.bits
    assert hiding.strangers_per_lookup > exact.strangers_per_lookup > full.strangers_per_lookup
    assert hiding.collision_odds >= exact.collision_odds > full.collision_odds
    assert coincidences(distinct, bits) > coincidences(distinct, bits + 1)


@given(st.integers(2000, 10**9), st.integers(1, 500), st.floats(0, 0.0095), st.floats(0, 0.0095))
def test_a_value_that_stands_out_more_is_never_allowed_sooner(distinct, repeats, one, other):
    less, more = sorted((one, other))
    calm = ColumnStatistics(rows=distinct * repeats, distinct=distinct, top_frequency=less)
    loud = ColumnStatistics(rows=distinct * repeats, distinct=distinct, top_frequency=more + 0.02)
    assert not low_entropy(calm)
    assert low_entropy(loud)
    assert loud.min_entropy_bits < calm.min_entropy_bits


def test_the_exact_choice_is_a_bigint_and_unique_begins_with_128_bits():
    _, exact, full = plan_index(NAMES, unique=False).options
    assert (exact.type, exact.column_bytes, exact.index) == ("bigint", 8, BlindIndex(63))
    assert exact.index_bytes < full.index_bytes
    assert exact.strangers_per_lookup < 1e-9
    unique = plan_index(ColumnStatistics(rows=10**9, distinct=10**9), unique=True)
    assert [option.bits for option in unique.options] == [UNIQUE_BITS, 256]
    assert unique.recommended.collision_odds < 1e-18
    assert unique.recommended.type == "bytea"


@pytest.mark.parametrize(
    "stats",
    [
        ColumnStatistics(rows=100_000, distinct=2, top_frequency=0.6),
        ColumnStatistics(rows=100_000, distinct=5, top_frequency=0.2),
        ColumnStatistics(rows=1_000_000, distinct=255),
        ColumnStatistics(rows=1_000_000, distinct=40_000, top_frequency=0.05),
        ColumnStatistics(rows=90, distinct=80, top_frequency=0.1),
        ColumnStatistics(rows=1000, distinct=1),
    ],
    ids=["boolean", "status", "few values", "one dominates", "one dominates among few", "constant"],
)
def test_low_entropy_is_refused_for_both_ways_by_the_columns_own_figures(stats):
    shown = f"{stats.top_frequency:.1%}" if "one value" in low_entropy(stats) else f"{stats.distinct:,} different"
    for refuse in (lambda: plan_index(stats, unique=False), lambda: plan_deterministic(stats)):
        with pytest.raises(ModeRefused, match="low entropy") as refused:
            refuse()
        assert shown in refused.value.message
        assert "--allow-low-entropy" in refused.value.hint
    for told in (
        plan_index(stats, unique=False, allow_low_entropy=True),
        plan_deterministic(stats, allow_low_entropy=True),
    ):
        assert any("allowed here" in text and shown in text for text in told.warnings)


@pytest.mark.parametrize("rows", [1, 3, 50, 10_000])
def test_values_that_all_differ_are_low_in_no_size_of_a_table(rows):
    stats = ColumnStatistics(rows=rows, distinct=rows)
    assert not low_entropy(stats)
    assert plan_index(stats, unique=True).recommended.bits == UNIQUE_BITS
    assert plan_index(stats, unique=False).recommended.aim is (Aim.HIDING if rows >= 16 else Aim.EXACT)


def test_what_leaks_is_said_in_the_columns_figures():
    hiding = plan_index(NAMES, unique=False)
    assert any(f"{hiding.recommended.coincidences:.1f} other values" in text for text in hiding.leaks)
    assert any("0.40%" in text and "1 in 250" in text for text in hiding.leaks)
    siv = plan_deterministic(ColumnStatistics(rows=1_000_000, distinct=50_000, null_fraction=0.25))
    assert any("20.0 rows" in text or "15.0 rows" in text for text in siv.leaks)
    assert any("length" in text for text in siv.leaks)
    assert any("25.0%" in text for text in siv.leaks)
    assert any("equal bytes" in text for text in siv.warnings)


def test_deterministic_is_refused_in_the_fips_profile_and_an_index_is_not():
    with pytest.raises(ModeRefused, match="FIPS") as refused:
        plan_deterministic(NAMES, profile=Profile.FIPS)
    assert "blind index" in refused.value.hint


def test_stale_figures_say_so():
    stats = ColumnStatistics(rows=1000, distinct=1000, changed_rows=201)
    assert any("ANALYZE" in text for text in plan_index(stats, unique=True).warnings)


@given(st.integers(1, 10**7), st.integers(1, 1000), st.floats(0.0001, 1))
def test_a_tenants_part_has_no_more_than_the_whole(distinct, repeats, share):
    whole = ColumnStatistics(rows=distinct * repeats, distinct=distinct)
    part = whole.within(share)
    assert part.rows <= whole.rows
    assert 1 <= part.distinct <= min(whole.distinct, part.rows)


def test_a_tenants_part_counts_the_values_that_are_in_it():
    draw = random.Random(11)
    rows = [draw.randrange(2000) for _ in range(20_000)]
    part = [value for value in rows if draw.random() < 0.05]
    foretold = ColumnStatistics(rows=len(rows), distinct=len(set(rows))).within(0.05)
    assert foretold.distinct == pytest.approx(len(set(part)), rel=0.1)
    assert ColumnStatistics(rows=len(rows), distinct=len(set(rows))).within(1) == ColumnStatistics(
        rows=len(rows), distinct=len(set(rows))
    )


@pytest.mark.parametrize(
    "given_",
    [
        {"rows": 0, "distinct": 1},
        {"rows": 10, "distinct": 11},
        {"rows": 10, "distinct": 6, "null_fraction": 0.5},
        {"rows": 10, "distinct": 5, "top_frequency": 1.5},
        {"rows": 10, "distinct": 5, "null_fraction": 1.0},
    ],
)
def test_figures_that_no_column_can_have_are_refused(given_):
    with pytest.raises(UsageError, match="cannot have"):
        ColumnStatistics(**given_)


# --- the command, with figures by hand


def _plan(*arguments):
    return CliRunner().invoke(COMMAND, ["plan", "app.users.name", *arguments])


def test_the_command_shows_figures_options_and_leaks():
    shown = _plan("--rows", "1000000", "--distinct", "50000", "--top", "0.004", "--nulls", "0.1")
    assert shown.exit_code == 0, shown.output
    for part in ("50,000 different values", "10.0% NULL", "* hiding", "deterministic", "bigint", "1 in 250"):
        assert part in shown.stdout


def test_the_command_refuses_with_exit_code_1_and_both_ways_out():
    refused = _plan("--rows", "1000", "--distinct", "2", "--top", "0.5")
    assert refused.exit_code == 1
    assert "refused: low entropy" in refused.stdout
    assert "randomised" in refused.stdout
    assert _plan("--rows", "1000", "--distinct", "2", "--allow-low-entropy").exit_code == 0
    assert _plan().exit_code != 0
    assert _plan("--rows", "10").exit_code != 0


def test_the_fips_profile_has_an_index_and_nothing_deterministic(tmp_path):
    config = tmp_path / "dbsec.toml"
    config.write_text('[crypto]\nprofile = "fips"\n')
    shown = _plan("--rows", "100000", "--distinct", "50000", "--config", str(config), "--format", "json")
    told = json.loads(shown.stdout)["result"]
    assert told["deterministic_leaks"] is None
    assert {option["aim"] for option in told["options"]} == {"hiding", "exact", "full"}
    assert any("FIPS" in text for text in told["warnings"])
