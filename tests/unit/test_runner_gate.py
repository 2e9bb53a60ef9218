"""When the old release counts as gone: only where somebody looked all the time, saw all, and saw nobody."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dbsec.migrations.runner.gate import Gate
from dbsec.migrations.runner.obstacle import Block
from dbsec.migrations.runner.releases import PRIMARY, Look, Observed, Prepared, Seen, Sighting
from dbsec.migrations.settings import Settings

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)
STANDBY = "env:STANDBY"


def _gate(release: str = "green", **settings: Any) -> Gate:
    return Gate(Settings(**{"service": "app", **settings}), release, 3)


def _sighting(name: str, ago: timedelta, server: str = PRIMARY) -> Sighting:
    return Sighting(server, name, NOW - 9 * DAY, NOW - ago, 2)


def _seen(
    sessions: dict[str, int] | None = None,
    *sightings: Sighting,
    since: timedelta | None = 2 * DAY,
    server: str = PRIMARY,
    **look: Any,
) -> Seen:
    names = {"app@green": 3} if sessions is None else sessions
    first = Look(names, look.pop("hidden", 0), role="app_migrator", **look)
    looks = {PRIMARY: first} if server == PRIMARY else {PRIMARY: first, server: Look({}, 0)}
    observed = {one: Observed(one, None if since is None else NOW - since, NOW, NOW) for one in looks}
    return Seen(looks, sightings, observed, NOW)


def _blocks(gate: Gate, seen: Seen) -> list[tuple[Block, bool]]:
    return [(one.block, one.unknown) for one in gate.obstacles(seen)]


def test_a_day_of_looks_without_an_old_client_is_the_only_pass() -> None:
    assert _blocks(_gate(), _seen({"app@green": 3, "psql": 1, "billing@7": 2})) == []


def test_an_old_client_that_is_connected_is_a_refusal() -> None:
    (found,) = _gate().obstacles(_seen({"app@green": 3, "app@blue": 1}))
    assert (found.block, found.unknown, found.forcible) == (Block.OLD_RELEASE, False, True)
    assert "'app@blue' has 1 session now" in found.message


def test_an_old_client_of_three_hours_ago_is_a_refusal_with_the_hour_to_wait_for() -> None:
    (found,) = _gate().obstacles(_seen(None, _sighting("app@blue", timedelta(hours=3))))
    assert found.block is Block.OLD_RELEASE
    assert "2026-11-24 09:00:00" in found.hint
    assert _blocks(_gate(), _seen(None, _sighting("app@blue", timedelta(hours=25)))) == []


@pytest.mark.parametrize(
    ("since", "says"), [(timedelta(hours=23), "not observed for long enough"), (None, "nobody has looked")]
)
def test_what_nobody_looked_at_is_never_a_pass(since: timedelta | None, says: str) -> None:
    (found,) = _gate().obstacles(_seen(since=since))
    assert (found.block, found.unknown) == (Block.NOT_OBSERVED, True)
    assert found.message.startswith(says)


def test_sessions_that_our_role_cannot_see_are_never_a_pass() -> None:
    (found,) = _gate().obstacles(_seen(hidden=4))
    assert (found.block, found.unknown) == (Block.NOT_OBSERVED, True)
    assert found.hint == "as a superuser: GRANT pg_read_all_stats TO app_migrator"


def test_a_prepared_transaction_counts_as_the_old_release() -> None:
    (found,) = _gate().obstacles(_seen(prepared=(Prepared("tx-1", NOW, "ann"),)))
    assert (found.block, found.unknown) == (Block.PREPARED, False)
    assert "'tx-1'" in found.hint


@pytest.mark.parametrize("name", ["", "python3", "app", "PostgreSQL JDBC Driver"])
def test_a_client_that_could_be_anybody_is_never_a_pass(name: str) -> None:
    assert _blocks(_gate(), _seen({"app@green": 3, name: 1})) == [(Block.UNNAMED_CLIENT, True)]
    ago = _sighting(name, timedelta(hours=3))
    assert _blocks(_gate(), _seen(None, ago)) == [(Block.UNNAMED_CLIENT, True)]
    assert _blocks(_gate(other_clients=("*@*", name)), _seen({"app@green": 3, name: 1})) == []


def test_a_name_with_a_slip_of_the_pen_is_never_a_pass() -> None:
    assert _blocks(_gate(service="ap"), _seen({"app@green": 1, "app@blue": 1})) == [(Block.NOT_OBSERVED, True)]
    assert (Block.OLD_RELEASE, False) in _blocks(_gate("gren"), _seen())


@pytest.mark.parametrize("without", [{"service": ""}, {"release": ""}])
def test_without_a_service_and_a_release_nobody_is_old_and_that_is_no_pass(without: dict[str, str]) -> None:
    gate = _gate(without.get("release", "green"), **{k: v for k, v in without.items() if k == "service"})
    assert _blocks(gate, _seen()) == [(Block.NOT_OBSERVED, True)]


def test_standbys_that_nobody_looks_at_are_no_pass() -> None:
    assert _blocks(_gate(), _seen(standbys=1)) == [(Block.NOT_OBSERVED, True)]
    assert _blocks(_gate(observed=(STANDBY,)), _seen(standbys=1, server=STANDBY)) == []
    assert _blocks(_gate(observed=(STANDBY,)), _seen(standbys=2, server=STANDBY)) == [(Block.NOT_OBSERVED, True)]
    assert _blocks(_gate(standbys_have_clients=False), _seen(standbys=2)) == []


def test_an_old_client_on_a_standby_counts() -> None:
    seen = _seen(None, _sighting("app@blue", timedelta(hours=1), STANDBY), server=STANDBY)
    assert _blocks(_gate(observed=(STANDBY,)), seen) == [(Block.OLD_RELEASE, False)]


def test_the_window_is_a_setting() -> None:
    seen = _seen(None, _sighting("app@blue", timedelta(hours=3)), since=timedelta(hours=2))
    assert _blocks(_gate(quiet_s=3600), seen) == []
