"""Whatever happens to a backfill, it goes on where it was, and each row is written once: a counter in the row tells."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dbsec import backfill, process, retry
from dbsec.backfill import Limits, State
from dbsec.errors import GaveUp
from dbsec.journal import Edge
from dbsec.pg import connect
from dbsec.testing import faults

pytestmark = pytest.mark.pg(17)
MAIN = pytest.mark.pg(15, 17, 18)
HERE = Path(__file__).parent
ENDED = (
    "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'dbsec@%'"
)
OURS = "datname = current_database() AND application_name LIKE 'dbsec@%' AND pid <> pg_backend_pid()"
KILL = f"SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE {OURS}"
WAITS = f"SELECT count(*) > 0 FROM pg_stat_activity WHERE {OURS} AND wait_event_type = 'Lock'"


def test_kill_9_at_every_edge_of_every_batch(scene, tmp_path):
    """A batch, and the last one of the range: begun, rows written, cursor written but not committed, committed."""

    def prepare(folder: Path) -> None:
        (folder / "dsn").write_text(scene.conninfo.text())
        scene.table(9, f'app."{folder.name}"')

    def check(folder: Path) -> None:
        assert scene.times(f'app."{folder.name}"') == {1: 9}
        assert backfill.status(scene.db, folder.name).state is State.DONE

    job = faults.Job("jobs:walk", prepare, search=(HERE,))
    deaths = faults.survives_kill_at_every_step(job, scratch=tmp_path, check=check)
    batches = ["range 1 batch 1", "range 1 batch 2"]
    assert {step for step, _ in deaths} == {*batches, *(f"{batch} cursor" for batch in batches)}
    assert len(deaths) == 8


@MAIN
def test_three_processes_at_once_one_after_the_other_killed(scene, tmp_path):
    """Each of two workers; a killed one leaves its range to the others at once, and nobody waits for a timeout."""
    folder = tmp_path / "many"
    folder.mkdir(mode=0o700)
    (folder / "dsn").write_text(scene.conninfo.text())
    scene.table(4000, "app.many")
    argv: list[Any] = [sys.executable, "-P", HERE / "jobs.py", folder]
    left = [process.spawn(argv, cwd=folder, log=folder / f"{n}.log") for n in range(3)]
    for n, victim in enumerate(left[:2], 1):
        scene.until(
            f"SELECT coalesce(sum(visited), 0) >= (SELECT estimate FROM dbsec.backfills) * 0.2 * {n}"
            " FROM dbsec.backfill_ranges",
            f"{n} fifths",
        )
        with suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
    retry.wait_until(lambda: not any(one.alive for one in left), within_s=60, what="the last process to end")
    assert scene.times("app.many") == {1: 4000}
    assert backfill.status(scene.db, "many").state is State.DONE
    hosts = "SELECT count(DISTINCT worker) FROM dbsec.backfill_ranges"
    assert scene.db.execute(hosts).fetchone()[0] > 1


class Cuts:
    """Ends the sessions of the backfill at each edge of each batch, once."""

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        self.seen: set[tuple[str, Edge]] = set()

    def __call__(self, step: str, edge: Edge) -> None:
        if (step, edge) in self.seen:
            return
        self.seen.add((step, edge))
        with self._scene.another() as other:
            other.execute(KILL)


def test_a_connection_that_is_cut_at_every_edge_is_opened_again(scene, said):
    scene.db.execute("SET application_name = 'the test'")
    scene.table(100)
    cuts = Cuts(scene)
    done = scene.run(scene.job(batch_rows_min=50, batch_rows_max=50), observer=cuts, progress=said)
    assert scene.times() == {1: 100}
    assert len(cuts.seen) == done.status.batches * 4
    # at the last edge of a batch nothing is under way: that cut is found by the next one
    assert done.reconnects == len(cuts.seen)
    assert said.has("the connection was lost")


def test_a_server_that_restarts_is_waited_for(cluster_factory, scene_of):
    cluster = cluster_factory()
    scene = scene_of(cluster.create_database("own"))
    scene.table(2000)

    def restart(step: str, edge: Edge) -> None:
        if (step, edge) == ("range 1 batch 2", Edge.AFTER_EFFECT) and not restarted:
            restarted.append(True)
            scene.db.close()
            cluster.instance.stop()
            cluster.instance.start()

    restarted: list[bool] = []
    scene.run(scene.job(), workers=2, observer=restart)
    with connect(scene.conninfo) as db:
        assert restarted
        assert db.execute("SELECT n, count(*) FROM app.t GROUP BY n").fetchall() == [(1, 2000)]
    cluster.instance.stop()


def test_a_server_that_stays_away_is_given_up(cluster_factory, scene_of):
    cluster = cluster_factory()
    scene = scene_of(cluster.create_database("own"))
    scene.table(2000)

    def stop(step: str, edge: Edge) -> None:
        cluster.instance.stop()

    with pytest.raises(GaveUp, match=r"did not succeed within 0\.5 s"):
        scene.run(scene.job(), observer=stop, limits=Limits(reconnect_s=0.5, give_up_s=5))


@MAIN
def test_a_deadlock_with_a_writer_costs_a_batch_and_no_row(scene, said):
    """The writer locks the last row of a window, then wants its first one: what no order of ours prevents."""
    scene.table(40)
    scene.db.execute(f"ALTER DATABASE {scene.conninfo.dbname} SET deadlock_timeout = '1s'")  # after the writer waits
    limits = Limits(lock_timeout_ms=20000, give_up_s=30)
    with scene.another() as writer:
        writer.execute("SET deadlock_timeout = '60s'")  # so that the victim is ours
        with writer.transaction():
            writer.execute("UPDATE app.t SET v = 'writer' WHERE id = 120")
            run = scene.background(scene.job(), limits=limits, progress=said)
            scene.until(WAITS, "the batch to wait for the writer")
            writer.execute("UPDATE app.t SET v = 'writer' WHERE id = 3")
    done = run.result()
    assert scene.times() == {1: 40}
    assert scene.db.execute("SELECT count(*) FROM app.t WHERE v = 'writer'").fetchone() == (2,)
    assert done.retries > 0
    assert said.has("40P01")


@MAIN
def test_a_row_that_somebody_holds_stops_neither_the_service_nor_the_other_ranges(scene, said):
    scene.table(500)
    with scene.another() as holder, holder.transaction():
        holder.execute("UPDATE app.t SET v = 'held' WHERE id = 3")
        run = scene.background(scene.job(), workers=1, progress=said)
        rest = "count(*) - count(done_at) = 1 FROM dbsec.backfill_ranges HAVING count(*) > 1"
        scene.until(f"SELECT coalesce((SELECT {rest}), false)", "all ranges but one to be done")
        retry.wait_until(lambda: said.has("pid"), within_s=30, what="the blocker to be named")
        # rows of the batch that waits are free between its tries
        with scene.another() as service:
            service.execute("SET lock_timeout = '5s'")
            service.execute("UPDATE app.t SET v = 'service' WHERE id = 6")
    done = run.result()
    assert scene.times() == {1: 500}
    assert done.retries > 0
    assert said.has("'service@blue'")


def test_a_row_that_stays_locked_is_given_up_and_named(scene):
    scene.table(10)
    with scene.another() as holder, holder.transaction():
        pid = holder.info.backend_pid
        holder.execute("UPDATE app.t SET v = 'secret' WHERE id = 3")
        with pytest.raises(GaveUp) as given_up:
            scene.run(scene.job(), limits=Limits(give_up_s=0.5, lock_timeout_ms=50))
    assert "within 0.5 s: canceling statement due to lock timeout (55P03)" in given_up.value.message
    assert f"pid {pid} ('service@blue', idle in transaction" in given_up.value.message
    assert "secret" not in given_up.value.message
    assert scene.run(scene.job()).state is State.DONE
    assert scene.times() == {1: 10}
