"""A backfill visits every row once: whatever the key is, however the table is made, and while others write."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from dbsec.backfill import Limits, State, ranges, windows
from dbsec.backfill import target as targets
from dbsec.backfill.statements import Work, lock, update
from dbsec.backfill.windows import Window
from dbsec.journal import Edge

pytestmark = pytest.mark.pg(17)
MAIN = pytest.mark.pg(15, 17, 18)

QUOTED = ', "so to say"'
KEYS = {
    "int at its maximum": ("id int PRIMARY KEY", "2147483647 - 3000 + g", ("id",)),
    "bigint with gaps of 2^40": ("id bigint PRIMARY KEY", "(g - 1500)::bigint << 40", ("id",)),
    "uuid": ("id uuid PRIMARY KEY", "gen_random_uuid()", ("id",)),
    "text": ("id text PRIMARY KEY", "'Zoë ' || md5(g::text)", ("id",)),
    "timestamptz": ("id timestamptz PRIMARY KEY", "'1890-01-01'::timestamptz + g * interval '1 day 7.5 s'", ("id",)),
    "numeric": ("id numeric PRIMARY KEY", "g / 7.0", ("id",)),
    "a domain": ("id app.word PRIMARY KEY", "'w' || g", ("id",)),
    "quoted": ('"Id" int PRIMARY KEY', "g", ('"Id"',)),
    "composite": ("a int, b uuid DEFAULT gen_random_uuid(), PRIMARY KEY (a, b)", "g % 17", ("a", "b")),
    "descending": ("id int NOT NULL", "g", ("id",)),
}


def test_every_row_is_written_once_whatever_the_key(scene):
    scene.db.execute("CREATE DOMAIN app.word AS varchar(40)")
    for kind, (columns, value, key) in KEYS.items():
        name = sql.Identifier("app", kind + QUOTED).as_string()
        scene.db.execute(f"CREATE TABLE {name} ({columns}, n int NOT NULL DEFAULT 0)")
        if kind == "descending":
            scene.db.execute(f"CREATE UNIQUE INDEX ON {name} (id DESC)")
        first = "a" if kind == "composite" else key[0]
        scene.db.execute(f"INSERT INTO {name} ({first}) SELECT {value} FROM generate_series(1, 3000) g")
        done = scene.run(scene.job(name=kind, table=name, key=key), workers=2)
        assert scene.times(name) == {1: 3000}, kind
        assert (done.state, done.status.visited, done.status.changed) == (State.DONE, 3000, 3000)
        assert done.status.ranges == done.status.ranges_done == 30


def test_dead_rows_are_counted_and_their_remedy_named(scene):
    scene.table(2000, 'app."T"')
    scene.db.execute('CREATE INDEX ON app."T" (n); ALTER TABLE app."T" SET (autovacuum_enabled = off)')
    done = scene.run(scene.job(table='app."T"'))
    assert re.fullmatch(r'2,0\d\d dead rows .*; 0 % of the updates .*: VACUUM \(ANALYZE\) "app"."T";', done.hint)
    scene.db.execute('VACUUM app."T"')
    assert scene.run(scene.job(table='app."T"')).hint == ""


def test_an_infinite_date_is_a_key_like_another(scene):
    scene.db.execute("CREATE TABLE app.t (id date PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    dates = "'-infinity', '0044-03-15 BC', '2026-11-23', '99999-01-01', 'infinity'"
    scene.db.execute(f"INSERT INTO app.t (id) SELECT unnest(ARRAY[{dates}]::date[])")
    scene.run(scene.job(batch_rows=1))
    assert scene.times() == {1: 5}


def test_a_cursor_means_the_same_to_a_session_with_other_settings(scene):
    scene.db.execute("CREATE TABLE app.t (id timestamptz PRIMARY KEY)")
    moments = "'2026-03-04 05:06:07.000008+00'::timestamptz + g * '1 d'::interval"
    scene.db.execute(f"INSERT INTO app.t SELECT {moments} FROM generate_series(0, 9) g")
    target = targets.find(scene.db, scene.job())
    end = Window(None, ("infinity",))
    scene.db.execute("SET datestyle = 'SQL, DMY'; SET timezone = 'Asia/Tokyo'")
    page = windows.page(scene.db, target, end, 4)
    scene.db.execute("SET datestyle = 'SQL, MDY'; SET timezone = 'America/New_York'")
    assert windows.page(scene.db, target, Window(page.window.high, end.high), 99).rows == 6


@MAIN
def test_a_partitioned_table_with_generated_columns_and_nulls(scene):
    scene.db.execute(
        "CREATE TABLE app.t (id int, day date, v text, n int NOT NULL DEFAULT 0, email text,"
        " upper text GENERATED ALWAYS AS (upper(email)) STORED, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)"
    )
    for month in (1, 2, 3):
        bounds = f"FROM ('2026-0{month}-01') TO ('2026-0{month + 1}-01')"
        scene.db.execute(f"CREATE TABLE app.t{month} PARTITION OF app.t FOR VALUES {bounds}")
    scene.db.execute(
        "INSERT INTO app.t (id, day, v) SELECT g, '2026-01-01'::date + g % 85, nullif(' A' || g % 5, ' A0')"
        " FROM generate_series(1, 1000) g"
    )
    job = scene.job(key=("id", "day"), set="email = lower(btrim(v)), n = n + 1", where="email IS NULL")
    done = scene.run(job, workers=2)
    assert (scene.times(), done.status.changed) == ({1: 1000}, 1000)
    row = "SELECT count(*), count(upper), min(upper), max(upper) FROM app.t"
    assert scene.db.execute(row).fetchone() == (1000, 800, "A1", "A4")


@MAIN
def test_an_empty_table_is_done_at_once(scene, said):
    scene.table(0)
    done = scene.run(scene.job(), progress=said)
    assert (done.state, done.status.ranges, done.status.batches) == (State.DONE, 0, 0)


def test_what_already_is_as_it_must_be_is_left_alone(scene):
    scene.table(500)
    scene.db.execute("UPDATE app.t SET v = 'done' WHERE id % 2 = 0")
    job = scene.job(set="n = n + 1, v = 'done'", where="v IS DISTINCT FROM 'done' -- a comment")
    done = scene.run(job)
    assert scene.times() == {0: 250, 1: 250}
    assert (done.status.visited, done.status.changed) == (500, 250)


def test_a_percent_sign_and_a_quote_mean_themselves(scene):
    scene.table(100)
    scene.run(scene.job(set="n = n + 1, v = 'it''s 100 %s' || (id % 7)", where="v IS NULL OR v NOT LIKE '100%'"))
    assert scene.times() == {1: 100}
    assert scene.db.execute("SELECT count(*) FROM app.t WHERE v LIKE 'it''s 100 %%s_'").fetchone() == (100,)


def test_rows_that_come_above_the_high_mark_are_left_to_those_who_write_them(scene, stop):
    """Their writer is the trigger of the expand, or the application: the walk ends although the table grows."""
    scene.table(100)
    held = stop("range 1 batch 1", Edge.BEFORE)
    run = scene.background(scene.job(), observer=held)
    assert held.reached.wait(30)
    scene.db.execute("INSERT INTO app.t (id, n) SELECT 100000 + g, -1 FROM generate_series(1, 500) g")
    held.go_on.set()
    run.result()
    assert scene.times() == {-1: 500, 1: 100}


@pytest.mark.parametrize("partitioned", ["", "PARTITION BY RANGE (id)"])
def test_a_large_table_is_split_evenly_by_a_few_of_its_pages(partitioned, scene):
    scene.db.execute(f"CREATE TABLE app.t (id int PRIMARY KEY, pad text) {partitioned}")
    if partitioned:
        scene.db.execute("CREATE TABLE app.t1 PARTITION OF app.t FOR VALUES FROM (1) TO (5000)")
        scene.db.execute("CREATE TABLE app.t2 PARTITION OF app.t DEFAULT")
    scene.db.execute("INSERT INTO app.t SELECT g, repeat('x', 1000) FROM generate_series(1, 28000) g")
    target = targets.find(scene.db, scene.job())
    blocks = "SELECT sum(heap_blks_hit + heap_blks_read)::int FROM pg_statio_user_tables WHERE relname ^@ 't'"
    before = counted(scene, blocks)
    estimate, bounds = ranges.sample(scene.db, target, most=4, least_rows=100)
    assert counted(scene, blocks) - before < 3 * ranges.SAMPLE_PAGES  # of 4,000 pages, looked at twice
    assert 14000 < estimate < 56000
    keys = [int(key) for (key,) in bounds]
    assert keys == sorted(keys)
    assert all(abs(key - quarter) < 4000 for key, quarter in zip(keys, (7000, 14000, 21000), strict=True))


def counted(scene: Any, query: str) -> int:
    scene.db.execute("SELECT pg_stat_force_next_flush()")
    return int(scene.db.execute(query).fetchone()[0])


@MAIN
@pytest.mark.parametrize("analyzed", [True, False])
def test_no_statement_of_a_batch_reads_more_than_its_window(analyzed, scene):
    """A composite key is compared as a row: the index answers it, in its order, and nothing is sorted."""
    scene.db.execute(
        "CREATE TABLE app.t (a int, b uuid DEFAULT gen_random_uuid(), n int DEFAULT 0, PRIMARY KEY (a, b))"
    )
    scene.db.execute("INSERT INTO app.t (a) SELECT g % 100 FROM generate_series(1, 20000) g")
    if analyzed:
        scene.db.execute("ANALYZE app.t")
    job = scene.job(key=("a", "b"))
    target = targets.find(scene.db, job)
    low, high = (str(uuid.UUID(int=0)), str(uuid.UUID(int=2**128 - 1)))
    work, narrow = Work(job, target, Limits()), Window(("40", low), ("40", high))
    page = windows.page_query(target, Window(("40", low), ("99", high)), 100)
    for part in (page, lock(work, narrow), update(work, narrow)):
        plan = explained(scene, part)
        assert "Index Cond: ((ROW(a, b) > ROW" in plan
        assert "Seq Scan" not in plan
    assert "Sort" not in explained(scene, page).partition("CTE")[2].partition("->  Limit")[0]
    # locked in the order of the key: what the index gives, or what was sorted below
    assert explained(scene, lock(work, narrow)).split("\n")[2].strip() == "->  LockRows"


def explained(scene: Any, part: Any) -> str:
    query = sql.SQL("EXPLAIN (COSTS OFF) ") + part.text
    return "\n".join(line for (line,) in scene.db.execute(query, part.values, prepare=False))


ACTS = st.lists(st.tuples(st.sampled_from(("page", "insert", "delete")), st.integers(0, 60)), min_size=1, max_size=40)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.sets(st.integers(0, 60), max_size=30), acts=ACTS, rows=st.integers(1, 7))
def test_a_walk_visits_what_stays_exactly_once_while_others_insert_and_delete(scene, first, acts, rows):
    """The walk of a range: its windows, between the writes of others; ended by a page that is not full."""
    scene.db.execute("DROP TABLE IF EXISTS app.w")
    scene.db.execute("CREATE TABLE app.w (a int, b int, PRIMARY KEY (a, b))")
    put, cut = "INSERT INTO app.w VALUES (%s, %s) ON CONFLICT DO NOTHING", "DELETE FROM app.w WHERE (a, b) = (%s, %s)"
    for key in first:
        scene.db.execute(put, divmod(key, 8))
    target = targets.find(scene.db, scene.job(table="app.w", key=("a", "b")))
    stays, seen = set(first), []
    window, finished = Window(None, ("7", "7")), False
    for act, key in [*acts, *[("page", 0)] * 62]:
        if act == "insert":
            scene.db.execute(put, divmod(key, 8))
        elif act == "delete":
            scene.db.execute(cut, divmod(key, 8))
            stays.discard(key)
        elif not finished:
            page = windows.page(scene.db, target, window, rows)
            inside = windows.inside(target, page.window)
            found = scene.db.execute(sql.SQL("SELECT a * 8 + b FROM app.w WHERE ") + inside.text, inside.values)
            seen += [key for (key,) in found]
            window, finished = Window(page.window.high, window.high), page.rows < rows
    assert finished
    assert len(seen) == len(set(seen))
    assert stays <= set(seen)
