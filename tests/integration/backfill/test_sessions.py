"""A role's or a database's own settings, and a pooler that lends one session to many, change nothing of a backfill."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial

import pytest

from dbsec import backfill
from dbsec.backfill import State
from dbsec.backfill.throttle import Throttle, ThrottleLimits
from dbsec.backfill.verify import verify
from dbsec.pg import connect

pytestmark = pytest.mark.pg(17)
ODD = {
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "search_path": "pg_temp",
    "datestyle": "'SQL, DMY'",
    "intervalstyle": "'sql_standard'",
    "client_encoding": "'latin1'",
    "extra_float_digits": "-10",
    "bytea_output": "escape",
    "statement_timeout": "'2s'",
    "lock_timeout": "'1ms'",
    "idle_in_transaction_session_timeout": "'1s'",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
}


@contextmanager
def defaults(scene, settings):
    name = scene.conninfo.dbname
    for key, value in settings.items():
        scene.db.execute(f"ALTER DATABASE {name} SET {key} = {value}")
    yield
    scene.db.execute(f"ALTER DATABASE {name} RESET ALL")


@pytest.mark.pg(15, 17, 18)
def test_the_defaults_of_a_database_change_nothing(scene):
    scene.db.execute("CREATE TABLE app.t (k text, at timestamptz, f float8, g float8[], h text, n int NOT NULL DEFAULT 0,"
                     " PRIMARY KEY (k, at))")
    scene.db.execute(r"INSERT INTO app.t SELECT '€\ ' || g, timestamptz '2024-01-31' + g * interval '1 day', 1 + g / 3e9"
                     " FROM generate_series(1, 300) g")
    job = scene.job(key=("k", "at"), set=r"g = ARRAY[f], h = replace(k, '\', '€')", where="h IS NULL")
    assert job.batch_rows == 50
    with defaults(scene, ODD), connect(scene.conninfo) as odd:
        assert scene.run(job, workers=2).state is State.DONE
        assert verify(odd, job, range_rows=40).clean
        scene.db.execute("UPDATE app.t SET g = ARRAY[f + 1e-12] WHERE k LIKE '%5'")
        found = verify(odd, job, range_rows=40)
        assert found.wrong == 30
        assert all("€" in one.key[0] for one in found.mismatches)
        assert verify(odd, job, range_rows=40, repair=True).clean
        other = scene.python(lambda rows: [{**row, "h": f"€{row['f']!r}"} for row in rows], name="py",
                             key=("k", "at"), columns=("f",))
        assert scene.run(other).state is State.DONE
        assert verify(odd, other).clean
        again = scene.job(name="again", key=("k", "at"))
        scene.db.execute("UPDATE dbsec.backfills SET state = 'running' WHERE name = 'py'")
        for move in (backfill.pause, backfill.resume, backfill.abort, backfill.forget):
            move(odd, "py")
        assert scene.run(again).state is State.DONE
    assert scene.times() == {1: 300}
    assert scene.db.execute("SELECT count(*) FROM app.t WHERE h <> '€' || f::text").fetchone() == (0,)
