"""When a backfill waits: hours on the wall, limits of a file, and the judgement of readings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dbsec import config
from dbsec.backfill.hours import Hours
from dbsec.backfill.judging import Verdict, judge, size
from dbsec.backfill.limits import ThrottleLimits, of_config, of_table
from dbsec.backfill.readings import Readings
from dbsec.backfill.signals import SIGNALS, Reading
from dbsec.backfill.throttle import Throttle
from dbsec.errors import ConfigError, ConnectError, GaveUp

MB = 1024**2


class Wall:
    """A clock that only sleeping moves."""

    def __init__(self, moment: str) -> None:
        self.begin = self.moment = datetime.fromisoformat(moment).astimezone(UTC)

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return (self.moment - self.begin).total_seconds()

    def sleep(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


def at(moment: str) -> datetime:
    return datetime.fromisoformat(moment)


@pytest.mark.parametrize(
    ("window", "moment", "inside"),
    [
        ("09:00-17:00 UTC", "2026-01-05T09:00:00+00:00", True),
        ("09:00-17:00 UTC", "2026-01-05T16:59:59+00:00", True),
        ("09:00-17:00 UTC", "2026-01-05T17:00:00+00:00", False),
        ("22:00-06:00 Europe/Oslo", "2026-01-05T21:00:00+00:00", True),  # 22:00 in Oslo
        ("22:00-06:00 Europe/Oslo", "2026-01-05T20:59:00+00:00", False),
        ("22:00-06:00 Europe/Oslo", "2026-01-06T04:59:00+00:00", True),  # over midnight
        ("22:00-06:00 Europe/Oslo", "2026-01-06T05:00:00+00:00", False),
        ("22:00-06:00 Europe/Oslo", "2026-07-05T20:00:00+00:00", True),  # summer: two hours ahead of UTC
        ("22:00-06:00 Europe/Oslo", "2026-07-06T04:00:00+00:00", False),
        ("22:00-24:00 UTC", "2026-01-05T23:59:59+00:00", True),
        ("22:00-24:00 UTC", "2026-01-05T00:00:00+00:00", False),
        # 25 October 2026: 02:00 to 03:00 comes twice in Oslo
        ("02:00-03:00 Europe/Oslo", "2026-10-25T00:30:00+00:00", True),
        ("02:00-03:00 Europe/Oslo", "2026-10-25T01:30:00+00:00", True),
        ("02:00-03:00 Europe/Oslo", "2026-10-25T02:00:00+00:00", False),
        # 29 March 2026: 02:00 to 03:00 does not come
        ("02:00-03:00 Europe/Oslo", "2026-03-29T00:59:59+00:00", False),
        ("02:00-03:00 Europe/Oslo", "2026-03-29T01:00:00+00:00", False),
    ],
)
def test_hours_are_those_on_the_wall(window, moment, inside):
    assert Hours.parse(window).holds(at(moment)) is inside


@pytest.mark.parametrize(
    ("window", "moment", "opens"),
    [
        ("22:00-06:00 Europe/Oslo", "2026-01-05T12:00:00+00:00", "2026-01-05T22:00:00+01:00"),
        ("22:00-06:00 Europe/Oslo", "2026-07-05T12:00:00+00:00", "2026-07-05T22:00:00+02:00"),
        ("01:00-02:00 UTC", "2026-01-05T12:00:00+00:00", "2026-01-06T01:00:00+00:00"),
        ("02:00-03:00 Europe/Oslo", "2026-03-28T23:00:00+00:00", "2026-03-30T02:00:00+02:00"),  # the 29th has none
        ("02:30-04:00 Europe/Oslo", "2026-03-28T23:00:00+00:00", "2026-03-29T03:00:00+02:00"),  # 03:00 follows 01:59
    ],
)
def test_hours_say_when_they_open(window, moment, opens):
    assert Hours.parse(window).opens(at(moment)) == at(opens)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("22-06", "is no window"),
        ("22:00-06:00", "is no window"),
        ("25:00-06:00 UTC", "hour must be in"),
        ("06:00-06:00 UTC", "begins when it ends"),
        ("22:00-06:00 Europe/Nowhere", "no time zone 'Europe/Nowhere'"),
        ("22:00-06:00 ../../etc/passwd", "no time zone"),
    ],
)
def test_what_is_no_window_is_refused(text, why):
    with pytest.raises(ConfigError, match=why):
        of_table({"hours": text})


def test_a_backfill_waits_for_its_hours_and_then_goes_on():
    clock, told = Wall("2026-01-05T12:00:00+00:00"), []
    throttle = Throttle(quiet(hours="22:00-06:00 Europe/Oslo"), _no_server, clock, table="app.users")
    with pytest.raises(GaveUp, match="ConnectError"):  # only once it is open is the server asked
        throttle.wait(told.append)
    assert clock.now() >= at("2026-01-05T22:00:00+01:00")
    assert told[0] == "waiting: outside of 22:00-06:00 Europe/Oslo, which opens on Mon 22:00"


def test_a_pause_ends_the_wait_at_once():
    clock = Wall("2026-01-05T12:00:00+00:00")
    throttle = Throttle(quiet(hours="22:00-06:00 Europe/Oslo"), _no_server, clock, table="app.users")
    waited = throttle.wait(lambda text: None, go_on=lambda: clock.monotonic() < 1)
    assert 1 <= waited < 1.2


def test_a_server_that_cannot_be_reached_is_waited_for_and_then_given_up():
    clock, told = Wall("2026-01-05T12:00:00+00:00"), []
    throttle = Throttle(quiet(max_lag_s=1, unread_s=30), _no_server, clock, table="app.users")
    with pytest.raises(GaveUp, match="the server cannot be read"):
        throttle.wait(told.append)
    assert 30 <= clock.monotonic() < 31
    assert len(told) == 3  # at once, and each ten seconds


def test_limits_are_read_from_the_file_of_dbsec(tmp_path: Path):
    file = tmp_path / "dbsec.toml"
    file.write_text(
        "[migrations.backfill]\nmax_lag_bytes = '16 MB'\nmax_lag_s = 'off'\ncritical_lag_s = 60\n"
        "probe = 'SELECT 1'\nmax_probe_p95_ms = 20\n"
    )
    found = of_config(config.load(file))
    assert (found.max_lag_bytes, found.max_lag_s, found.critical_lag_s) == (16 * MB, None, 60)
    assert [signal for signal in SIGNALS if found.watches(signal)] == [
        *("lag_bytes", "lag_s", "transaction_s", "lock_waits", "probe_p95_ms")
    ]
    assert of_config(config.load(None)) == ThrottleLimits()


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"max_lag": 1}, "'max_lag': extra inputs"),
        ({"max_lag_s": False}, "'max_lag_s': write a number, or 'off'"),
        ({"max_lag_s": -1}, "'max_lag_s': input should be greater"),
        ({"max_lag_bytes": "16 apples"}, "'max_lag_bytes': input should be a valid number"),
        ({"max_dead_share": 20}, "'max_dead_share': input should be less"),
        ({"probe": "SELECT 1"}, "probe and max_probe_p95_ms go together"),
        ({"max_probe_p95_ms": 5}, "probe and max_probe_p95_ms go together"),
    ],
)
def test_what_is_misspelt_is_refused(table, why):
    with pytest.raises(ConfigError, match=rf"\[migrations.backfill\]: {why}"):
        of_table(table)


def test_every_signal_has_limits_and_words():
    for signal in SIGNALS:
        loud = ThrottleLimits.model_construct(**{f"max_{signal}": 0.5, f"critical_{signal}": 0.5})
        verdict = judge(Readings({signal: [Reading(0.75, "X")]}), loud)
        assert verdict.held == {signal}
        assert "X" in verdict.waits[0]
        assert verdict.waits == verdict.critical


def test_a_reason_names_the_replica_the_number_and_the_limit():
    readings = Readings({"lag_bytes": [Reading(3 * MB, "replica 'b'"), Reading(84 * MB, "replica 'walreceiver'")]})
    verdict = judge(readings, quiet(max_lag_bytes="16MB"))
    assert verdict.waits == ("replica 'walreceiver' is 84 MB behind, limit 16 MB",)


def test_a_reading_at_its_edge_does_not_stop_and_go():
    limit = quiet(max_lag_s=10, resume_at=0.8)
    held: frozenset[str] = frozenset()
    waits = []
    for lag in (9, 10, 10.1, 9, 8.1, 8, 9, 10):
        held = judge(Readings({"lag_s": [Reading(lag, "r")]}), limit, held).held
        waits.append(bool(held))
    assert waits == [False, False, True, True, True, False, False, False]


def test_a_limit_of_none_at_all_waits_for_one_and_goes_on_at_none():
    limit = quiet(max_lock_waits=0)
    assert judge(Readings({"lock_waits": [Reading(1, "t")]}), limit).held == {"lock_waits"}
    assert judge(Readings({"lock_waits": [Reading(0, "t")]}), limit, frozenset({"lock_waits"})) == Verdict()


def test_a_signal_without_a_reading_holds_nobody():
    assert judge(Readings({"lag_bytes": []}), quiet(max_lag_bytes=1)) == Verdict()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (16 * MB, "16 MB"), (1000 * MB, "0.977 GB"), (1.5 * 1024**4, "1.5 TB")],
)
def test_sizes_read_as_postgresql_writes_them(value, text):
    assert size(value) == text


def quiet(**changes: object) -> ThrottleLimits:
    """Limits of which only the named ones are on."""
    return of_table({**{f"max_{signal}": "off" for signal in SIGNALS}, **changes})


def _no_server():
    raise ConnectError("cannot log in as 'u' at nowhere:1: refused")
