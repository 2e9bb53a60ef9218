"""A role's or a database's own settings, and a pooler that lends one session to many, change nothing of a backfill."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from functools import partial

import pytest

from dbsec import backfill, files, process, retry
from dbsec.backfill import State
from dbsec.backfill.throttle import Throttle, ThrottleLimits
from dbsec.backfill.verify import verify
from dbsec.lab import ports
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
    scene.db.execute(
        "CREATE TABLE app.t (k text, at timestamptz, f float8, g float8[], h text, n int NOT NULL DEFAULT 0,"
        " PRIMARY KEY (k, at))"
    )
    scene.db.execute(
        r"INSERT INTO app.t SELECT '€\ ' || g, timestamptz '2024-01-31' + g * interval '1 day', 1 + g / 3e9"
        " FROM generate_series(1, 300) g"
    )
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
        other = scene.python(
            lambda rows: [{**row, "h": f"€{row['f']!r}"} for row in rows], name="py", key=("k", "at"), columns=("f",)
        )
        assert scene.run(other).state is State.DONE
        assert verify(odd, other).clean
        again = scene.job(name="again", key=("k", "at"))
        scene.db.execute("UPDATE dbsec.backfills SET state = 'running' WHERE name = 'py'")
        for move in (backfill.pause, backfill.resume, backfill.abort, backfill.forget):
            move(odd, "py")
        assert scene.run(again).state is State.DONE
    assert scene.times() == {1: 300}
    assert scene.db.execute("SELECT count(*) FROM app.t WHERE h <> '€' || f::text").fetchone() == (0,)


@pytest.fixture
def pooled(database):
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        reason = "pgbouncer is not installed: make setup-extra"
        pytest.fail(reason) if os.environ.get("DBSEC_REQUIRE") == "all" else pytest.skip(reason)
    folder, direct = database.cluster.instance.data.parent, database.conninfo
    account = database.cluster.account
    owner = None if account.is_current else (account.uid, account.gid)
    (port,) = ports.free(1)
    pool = f"host=127.0.0.1 port={direct.port} dbname={direct.dbname}"
    auth = f"auth_type = scram-sha-256\nauth_file = {folder}/backfill.txt\nunix_socket_dir =\npool_mode = transaction\n"
    text = f"[databases]\nown = {pool}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n{auth}"
    files.write_atomic(folder / "backfill.txt", f'"postgres" "{direct.password.reveal()}"\n', owner=owner)
    files.write_atomic(folder / "backfill.ini", text + "default_pool_size = 2\n", owner=owner)
    argv = [program, folder / "backfill.ini"]
    running = process.spawn(argv, cwd=folder, log=folder / "backfill.log", account=account)
    retry.wait_until(lambda: ports.taken(port), within_s=10, what="pgbouncer")
    yield direct.but(port=port, dbname="own")
    process.stop(running)


def test_behind_a_pooler_no_setting_of_ours_is_left_to_the_service(scene, pooled):
    scene.table(2000)
    opened = partial(connect, pooled)
    settings = "SELECT name, setting FROM pg_settings WHERE source = 'session'"
    settings += " AND name !~ '^(application_name|transaction_.*)$'"
    limits = ThrottleLimits(probe="SELECT 1", max_probe_p95_ms=5000, wait_query="SELECT false", read_every_ms=1)
    with opened() as service, Throttle(limits, opened, table="app.t") as throttle:
        before = service.execute(settings).fetchall()
        job = scene.job(set="v = 'x'", batch_rows_max=50)
        assert backfill.run(opened, job, workers=2, throttle=throttle).state is State.DONE
        assert verify(service, job, range_rows=50).clean
        scene.db.execute("UPDATE app.t SET v = 'off'")
        assert verify(service, job, range_rows=50, repair=True).repaired == 2000
        for _ in range(10):
            assert service.execute(settings).fetchall() == before
            service.execute("UPDATE app.t SET n = 1 WHERE id = 3")
