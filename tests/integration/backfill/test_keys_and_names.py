"""Keys whose operators live in another schema, names with a per cent sign, and jobs that would write their own key."""

from __future__ import annotations

import pytest
from psycopg import sql

from dbsec.backfill import Job, State
from dbsec.backfill.verify import verify
from dbsec.errors import UsageError

pytestmark = pytest.mark.pg(17)


@pytest.mark.pg(15)  # built with contrib
@pytest.mark.parametrize("kind", ["public.citext", "app.folded"])
def test_a_key_of_citext_is_walked_in_the_order_of_its_index(kind, scene):
    scene.db.execute("CREATE EXTENSION citext SCHEMA public")
    scene.db.execute("CREATE DOMAIN app.folded AS public.citext")
    scene.db.execute(f"CREATE TABLE app.t (id {kind} PRIMARY KEY, n int NOT NULL DEFAULT 0, v int)")
    scene.db.execute(
        "INSERT INTO app.t (id) SELECT CASE g % 2 WHEN 0 THEN chr(65 + g % 26) ELSE chr(97 + g % 26) END || g"
        " FROM generate_series(1, 500) g"
    )
    done = scene.run(scene.job(batch_rows=7), workers=2)
    assert (scene.times(), done.state) == ({1: 500}, State.DONE)
    job = scene.job(name="v", set="v = 5")
    scene.run(job)
    scene.db.execute("UPDATE app.t SET v = 6 WHERE n = 1 AND id IN (SELECT id FROM app.t ORDER BY id LIMIT 40)")
    assert verify(scene.db, job, range_rows=7).wrong == 40
    assert verify(scene.db, job, range_rows=9, repair=True).clean


def test_a_key_of_an_enum_is_walked(scene):
    scene.db.execute("CREATE TYPE public.\"Mood 5%\" AS ENUM ('z', 'b', 'a', 'Q')")
    scene.db.execute('CREATE TABLE app.t (m public."Mood 5%", id int, n int NOT NULL DEFAULT 0, PRIMARY KEY (m, id))')
    scene.db.execute(
        'INSERT INTO app.t SELECT m, g FROM unnest(enum_range(NULL::"Mood 5%")) m, generate_series(1,25) g'
    )
    scene.run(scene.job(key=("m", "id"), batch_rows=7))
    assert scene.times() == {1: 100}


def test_names_with_a_per_cent_sign_and_a_quote_are_names(scene):
    table = sql.Identifier("app", 'a "50%s" {b} %').as_string()
    column = sql.Identifier('5% "key" %s {c}').as_string()
    scene.db.execute(f'CREATE TABLE {table} ({column} int PRIMARY KEY, n int NOT NULL DEFAULT 0, "v%" text)'.encode())
    scene.db.execute(f"INSERT INTO {table} SELECT g FROM generate_series(1, 300) g".encode())
    job = Job(name="a", table=table, key=(column,), set="\"v%\" = n || '%'", where='"v%" IS NULL', batch_rows=50)
    assert scene.run(job, workers=2).status.changed == 300
    assert verify(scene.db, job, range_rows=70).clean
    scene.db.execute(f"UPDATE {table} SET \"v%\" = 'off' WHERE {column} < 5".encode())
    assert verify(scene.db, job, range_rows=70, repair=True).repaired == 4
    mine = Job(
        name="b",
        table=table,
        key=(column,),
        python=lambda rows: [{**row, "v%": "new"} for row in rows],
        columns=("n",),
        batch_rows=50,
    )
    assert scene.run(mine).status.changed == 300
    assert verify(scene.db, mine).clean


def test_a_job_that_writes_its_own_key_is_refused(scene):
    scene.table(10)
    for text in ("id = id + 1000000", '(n, "id") = (1, id + 1)'):
        with pytest.raises(UsageError, match="'set' writes 'id', which is of the key"):
            scene.run(scene.job(set=text))
    assert scene.times() == {0: 10}
    assert scene.db.execute("SELECT max(id) FROM app.t").fetchone() == (30,)
