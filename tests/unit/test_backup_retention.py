"""Retention as a judgement: no chain is broken, no window that was promised, whatever the settings say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.backup_bed import SEGMENT, SYSTEM

from dbsec.backup import Backup
from dbsec.backup.catalog import Archive, Layout
from dbsec.backup.restoring.coverage import lies_on, path_to
from dbsec.backup.retention import BEFORE_WINDOW, NEWEST, Retained, retained
from dbsec.backup.settings import RetentionSettings
from dbsec.backup.wal.names import Segment
from dbsec.clock import rfc3339
from dbsec.pg.lsn import Lsn

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
NO_WINDOW = timedelta()


def made(id: str, days: float, *, parent: str = "", timeline: int = 1, segment: int | None = None) -> Backup:
    """Describe a backup that ended so many days ago; a day of WAL is ten segments."""
    at = rfc3339(NOW - timedelta(days=days))
    start = Segment(timeline, segment if segment is not None else int((1000 - days) * 10), SEGMENT)
    return Backup(
        id=id, system=SYSTEM, layout=Layout.TAR, parent=parent, engine="protocol", source="primary",
        server_version="17.0", timeline=timeline, start_lsn=str(start.start), stop_lsn=str(start.end), started=at,
        stopped=at, segment_bytes=SEGMENT, archives=(Archive(0, (), 0),), manifest=(), tablespaces=(), plain_bytes=0,
        stored_bytes=0, page_checksums=True,
    )  # fmt: skip


def judge(
    found: list[Backup], *, promised_days: float = 0, histories: dict[int, list[tuple[int, Lsn]]] | None = None, **told
) -> Retained:
    promised = timedelta(days=promised_days)
    return retained(found, RetentionSettings(**told), now=NOW, promised=promised, histories=histories or {})


def test_the_last_two_full_ones_stay_with_what_builds_on_them() -> None:
    found = [made("a", 9), made("b", 7), made("b1", 6, parent="b"), made("c", 3), made("c1", 2, parent="c")]
    judged = judge(found)
    assert set(judged.keep) == {"b", "b1", "c", "c1"}
    assert [one.id for one in judged.expire] == ["a"]


def test_nothing_is_deleted_before_what_builds_on_it() -> None:
    chain = [made("a", 9), made("a1", 8, parent="a"), made("a2", 7, parent="a1")]
    judged = judge([*chain, made("b", 1)], count=1)
    assert [one.id for one in judged.expire] == ["a2", "a1", "a"]


def test_the_window_begins_on_the_backup_before_it() -> None:
    judged = judge([made("a", 30), made("b", 15), made("c", 13), made("d", 1)], promised_days=14, count=1)
    assert set(judged.keep) == {"b", "c", "d"}
    assert BEFORE_WINDOW in judged.keep["b"]
    assert judged.since == made("b", 15).start


def test_grandfather_father_and_son() -> None:
    found = [made(f"d{day:03}", day) for day in range(400)]
    judged = judge(found, count=1, daily=3, weekly=2, monthly=2, yearly=2)
    # Tuesday: the days 24, 23, 22; the weeks to the 24th and to Sunday the 22nd; November and October; 2026 and 2025
    assert set(judged.keep) == {"d000", "d001", "d002", "d024", "d328"}
    wal = [span for span in judged.wal if span.timeline]
    assert len(wal) == 5
    assert judged.wants(Segment(1, (1000 - 328) * 10, SEGMENT))
    assert not judged.wants(Segment(1, ((1000 - 328) * 10) + 5, SEGMENT))


def test_a_backup_on_a_timeline_that_was_left_carries_no_window() -> None:
    """It lies behind the switch: the window begins on the one before it."""
    left = [(1, made("x", 20).start)]
    judged = judge(
        [made("a", 25), made("lost", 16), made("b", 2, timeline=2)], promised_days=14, count=1, histories={2: left}
    )
    assert set(judged.keep) == {"a", "b"}


def test_a_broken_chain_is_never_the_newest_whole_one() -> None:
    judged = judge([made("a", 9), made("b1", 1, parent="gone")], count=1)
    assert NEWEST in judged.keep["a"]


def test_without_a_backup_all_wal_stays() -> None:
    assert judge([]).wants(Segment(1, 5, SEGMENT))


@st.composite
def repositories(draw: st.DrawFn) -> tuple[list[Backup], dict[int, list[tuple[int, Lsn]]]]:
    ages = draw(st.lists(st.floats(0, 90), max_size=12, unique=True))
    switch = draw(st.none() | st.floats(0, 90))
    found: list[Backup] = []
    for number, days in enumerate(sorted(ages, reverse=True)):
        parent = draw(st.sampled_from(["", *(one.id for one in found[-3:]), "gone"]))
        timeline = 2 if switch is not None and days < switch and draw(st.booleans()) else 1
        found.append(made(f"b{number:02}", days, parent=parent, timeline=timeline))
    histories = {} if switch is None else {2: [(1, made("x", switch).start)]}
    return found, histories


SETTINGS = st.builds(
    RetentionSettings,
    count=st.integers(1, 4),
    age=st.none() | st.sampled_from(["12h", "10d"]),
    window=st.none() | st.sampled_from(["3d", "30d"]),
    **{name: st.integers(0, 3) for name in ("daily", "weekly", "monthly", "yearly")},
)


@given(repositories(), SETTINGS, st.integers(0, 40))
def test_no_chain_and_no_promise_is_broken(repository, settings: RetentionSettings, days: int) -> None:
    found, histories = repository
    promised = timedelta(days=days)
    judged = retained(found, settings, now=NOW, promised=promised, histories=histories)
    by_id = {one.id: one for one in found}

    def whole(one: Backup) -> bool:
        return not one.parent or (one.parent in by_id and whole(by_id[one.parent]))

    for id in judged.keep:
        assert by_id[id].parent in {"", "gone", *judged.keep}
    gone: set[str] = set()
    for one in judged.expire:
        assert one.parent not in gone
        gone.add(one.id)
    assert gone | set(judged.keep) == set(by_id)
    path = path_to(max([*histories, *(one.timeline for one in found)], default=1), histories)
    able = sorted((one for one in found if whole(one) and lies_on(one, path)), key=lambda one: one.stopped_at)
    begins = NOW - max(promised, settings.window or NO_WINDOW)
    for moment in (begins, *(one.stopped_at for one in able if one.stopped_at >= begins), NOW):
        before = [one for one in able if one.stopped_at <= moment]
        if before:  # it could be reached, and still can
            kept = [one for one in before if one.id in judged.keep]
            assert kept
            assert judged.since is not None
            assert judged.since <= kept[-1].start
    for one in (by_id[id] for id in judged.keep):
        at = Segment.at(one.timeline, one.start, SEGMENT)
        assert judged.wants(at)
        assert judged.wants(at.next)
    again = retained((by_id[id] for id in judged.keep), settings, now=NOW, promised=promised, histories=histories)
    assert not again.expire
    assert again.since == judged.since


@pytest.mark.parametrize("name", ["daily", "weekly", "monthly", "yearly"])
def test_a_period_without_a_backup_does_not_count(name: str) -> None:
    judged = judge([made("a", 1000), made("b", 500), made("c", 0)], count=1, **{name: 2})
    assert set(judged.keep) == {"b", "c"}
