"""The data is the same on every server, and the load counts what its callers would have seen."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import stat
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dbsec import process, retry
from dbsec.errors import LabError
from dbsec.lab import dataset, ports, slo
from dbsec.lab.dataset import Scale
from dbsec.lab.load import MIX, Arrivals, Load, Op, Plan, Sample
from dbsec.lab.slo import Slo
from dbsec.lab.traffic import Script
from dbsec.pg import connect
from dbsec.progress import Silent

SLO = Slo(availability=0.999, p99_ms=1000)
# What small data with seed 7 is, on every version: a change of it changes what is compared between runs.
DIGEST = "4c9125f9-ca7bb1f6-6146c5f6"


def made(database: Any, *, seed: int) -> tuple[dataset.Dataset, str, list[Any]]:
    with connect(database.conninfo) as admin:
        admin.execute("SET TimeZone = 'Pacific/Chatham'")
        data = dataset.create(admin, Scale.SMALL, seed=seed, progress=Silent())
        admin.execute("SET TimeZone = 'UTC'")
        parts = [
            admin.execute(f"SELECT md5(string_agg(md5(t::text), '' ORDER BY id)) FROM (SELECT {c} FROM app.{n}) AS t")
            for n, c in (("tenants", "id, slug, name"), ("users", "*"), ("orders", "*"))
        ]
        digest = "-".join(part.fetchall()[0][0][:8] for part in parts)
        facts = admin.execute(
            "SELECT count(*), count(*) FILTER (WHERE u.id IS NULL), count(*) FILTER (WHERE u.created_at > o.created_at)"
            " FROM app.orders AS o LEFT JOIN app.users AS u ON (u.tenant_id, u.id) = (o.tenant_id, o.user_id)"
        ).fetchall()
        sizes = admin.execute("SELECT count(*) FROM app.users GROUP BY tenant_id ORDER BY 1 DESC").fetchall()
    return data, digest, [*facts[0], [size for (size,) in sizes]]


# --- data


@pytest.mark.pg(15, 17, 18)
def test_the_data_is_the_same_on_every_server(database: Any) -> None:
    data, digest, (orders, orphans, too_early, sizes) = made(database, seed=7)
    assert digest == DIGEST
    assert (orders, orphans, too_early, len(sizes), sum(sizes)) == (50_000, 0, 0, 10, 20_000)
    assert sizes[0] > 8 * sizes[-1]
    assert [slug for slug, _ in data.api_keys] == [tenant.slug for tenant in data.tenants]
    with connect(database.conninfo) as admin:
        # dropped while loading, and back
        assert admin.execute("SELECT count(*) FROM pg_indexes WHERE tablename = 'orders'").fetchall() == [(3,)]
        assert admin.execute("SELECT nextval(pg_get_serial_sequence('app.orders', 'id'))").fetchall() == [(50_001,)]
        phones = admin.execute("SELECT count(DISTINCT phone), bool_and(phone ~ '^\\+[1-9][0-9]{6,14}$') FROM app.users")
        assert phones.fetchall() == [(20_000, True)]
        with pytest.raises(LabError, match="holds tenants already"):
            dataset.create(admin, Scale.SMALL, seed=7, progress=Silent())


def test_another_seed_is_other_data_with_other_keys(database: Any) -> None:
    data, digest, _ = made(database, seed=8)
    assert digest != DIGEST
    assert len({key for _, key in data.api_keys}) == 10
    assert "secret" in repr(data.tenants[0].api_key)
    assert data.tenants[0].api_key.reveal() not in repr(data)


# --- the script


def plan_of(deployed: Any, base_url: str, **changes: Any) -> Plan:
    return Plan.of(deployed.data, base_url, **changes)


def test_a_plan_comes_back_from_its_file(deployed: Any) -> None:
    plan = plan_of(deployed, "http://127.0.0.1:1", arrivals=Arrivals.FIXED)
    again = Plan.from_json(plan.to_json())
    assert replace(again, tenants=()) == replace(plan, tenants=())
    assert [t.api_key for t in again.tenants] == [t.api_key for t in plan.tenants]


@pytest.mark.parametrize("arrivals", list(Arrivals))
def test_arrivals_and_calls_come_from_the_seed_and_keep_rate_and_mix(deployed: Any, arrivals: Arrivals) -> None:
    plan = plan_of(deployed, "http://127.0.0.1:1", rate_per_s=50, arrivals=arrivals)

    def drawn(seed: int) -> tuple[list[float], list[tuple[Op, str, str]]]:
        script = Script(replace(plan, seed=seed))
        due = list(itertools.islice(script.due(), 5000))
        return due, [(call.op, call.tenant.slug, call.path) for call in (script.next_call() for _ in range(5000))]

    due, calls = drawn(1)
    assert drawn(1) == (due, calls)
    assert drawn(2)[1] != calls
    assert due[-1] == pytest.approx(100, rel=0.06)
    for op, weight in MIX.items():
        assert sum(call[0] is op for call in calls) / 5000 == pytest.approx(weight / 100, abs=0.03)
    gaps = {round(b - a, 6) for a, b in itertools.pairwise(due)}
    assert (len(gaps) == 1) == (arrivals is Arrivals.FIXED)


def test_a_sample_comes_back_from_its_line() -> None:
    sample = Sample(datetime(2026, 11, 23, 10, 0, 0, 5, tzinfo=UTC), Op.LOGIN, 0, None, 0.5, "not sent")
    assert Sample.from_json(sample.to_json()) == sample


# --- the process


def test_a_load_runs_writes_and_ends_clean(deployed: Any, tmp_path: Path) -> None:
    load = Load.start(plan_of(deployed, deployed.service.base_url, rate_per_s=60), tmp_path)
    assert stat.S_IMODE((tmp_path / "load-plan.json").stat().st_mode) == 0o600
    assert deployed.big.api_key.reveal() not in Path(f"/proc/{load.process.pid}/cmdline").read_text()
    retry.wait_until(lambda: len(load.samples()) >= 180, within_s=20, what="three seconds of load", every_s=0.2)
    load.stop()
    samples = load.samples()
    assert {sample.error for sample in samples} == {""}
    assert {sample.op for sample in samples} == set(Op)
    assert {sample.status for sample in samples} == {200, 201}
    assert sum(sample.op is Op.LOGIN for sample in samples) <= len(deployed.data.tenants)
    assert slo.judge(samples, SLO, samples[0].at, samples[-1].at).failed == 0
    written = {op: sum(s.op is op for s in samples) for op in (Op.CREATE_ORDER, Op.CREATE_USER)}
    keys = deployed.rows("SELECT count(*) FROM app.idempotency_keys WHERE length(key) = 36")
    assert keys == [(sum(written.values()),)]
    assert "of a core" in process.last_lines(load.log)


def test_a_stall_shows_as_latency_of_all_that_were_due_in_it(deployed: Any, start_service: Any, tmp_path: Path) -> None:
    service = start_service(deployed.conninfo)
    load = Load.start(plan_of(deployed, service.base_url, rate_per_s=40), tmp_path)
    retry.wait_until(lambda: len(load.samples()) >= 40, within_s=20, what="the load to begin", every_s=0.1)
    began = datetime.now(UTC)
    os.kill(service.process.pid, signal.SIGSTOP)
    time.sleep(2)
    os.kill(service.process.pid, signal.SIGCONT)
    time.sleep(1.5)
    load.stop()
    service.stop()
    due_in_it = [s for s in load.samples() if began <= s.at < began + timedelta(seconds=2)]
    # about 80 were due, whether or not anything answered; each waited for the rest of the stall
    assert 45 <= len(due_in_it) <= 130
    assert slo.judge(load.samples(), SLO, began, began + timedelta(seconds=2)).max_ms > 1800
    for sample in due_in_it:
        left_ms = 2000 - (sample.at - began) / timedelta(milliseconds=1)
        assert sample.latency_ms is not None
        assert sample.latency_ms > left_ms - 150


def test_a_server_that_is_not_there_fails_every_request(deployed: Any, tmp_path: Path) -> None:
    (port,) = ports.free(1)
    load = Load.start(plan_of(deployed, f"http://127.0.0.1:{port}", rate_per_s=50), tmp_path)
    retry.wait_until(lambda: len(load.samples()) > 40, within_s=20, what="the load to begin", every_s=0.1)
    load.stop()
    samples = [s for s in load.samples() if s.op is not Op.LOGIN]
    assert {sample.error for sample in samples} == {"ConnectError"}
    verdict = slo.judge(samples, SLO, samples[0].at, samples[-1].at)
    assert (verdict.availability, verdict.met) == (0.0, False)


def test_a_server_that_never_answers_fails_by_time_out_and_by_what_was_not_sent(deployed: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=200) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        changes = {"rate_per_s": 60, "timeout_s": 1.0, "max_in_flight": 20}
        load = Load.start(plan_of(deployed, url, **changes), tmp_path)
        retry.wait_until(lambda: len(load.samples()) > 120, within_s=20, what="the load to begin", every_s=0.1)
        load.stop()
    samples = [s for s in load.samples() if s.op is not Op.LOGIN]
    assert {s.error for s in samples} <= {
        "no answer within 1 s",
        "not sent: 20 are in flight",
        "not answered when the load ended",
    }
    unsent = [s for s in samples if s.error.startswith("not sent")]
    assert len(unsent) > 30
    assert {s.latency_ms for s in unsent} == {None}
    assert all(s.latency_ms is not None and s.latency_ms >= 1000 for s in samples if s.error.startswith("no answer"))


def test_a_session_that_ended_is_renewed_and_fails_nothing(deployed: Any, start_service: Any, tmp_path: Path) -> None:
    service = start_service(deployed.conninfo, APP_SESSION_S="1")
    load = Load.start(plan_of(deployed, service.base_url, rate_per_s=40), tmp_path)
    retry.wait_until(lambda: len(load.samples()) >= 160, within_s=20, what="four seconds of load", every_s=0.1)
    load.stop()
    logins = sum(s.op is Op.LOGIN for s in load.samples())
    assert {s.error for s in load.samples()} == {""}
    assert logins > len(deployed.data.tenants)
    service.stop()


def test_a_load_that_died_is_not_taken_for_silence(deployed: Any, tmp_path: Path) -> None:
    load = Load.start(plan_of(deployed, "no url at all", rate_per_s=0), tmp_path)
    retry.wait_until(lambda: not load.process.alive, within_s=20, what="the load to fall over")
    with pytest.raises(LabError, match="ended by itself"):
        load.stop()


def test_a_load_ends_by_itself_at_its_limit(deployed: Any, tmp_path: Path) -> None:
    load = Load.start(plan_of(deployed, deployed.service.base_url, rate_per_s=20, limit_s=1), tmp_path)
    retry.wait_until(lambda: not load.process.alive, within_s=20, what="the load to end")
    assert 5 <= len(load.samples()) <= 60
    assert {sample.error for sample in load.samples()} == {""}


def test_a_load_ends_with_the_process_that_started_it(deployed: Any, tmp_path: Path) -> None:
    plan = tmp_path / "load-plan.json"
    plan.write_text(plan_of(deployed, deployed.service.base_url, rate_per_s=20).to_json())
    command = f"'{sys.executable}' -m dbsec.lab.load '{plan}' & echo $!; sleep 1.5"
    child = process.run(["sh", "-c", f"({command}) > pid"], cwd=tmp_path)
    assert child == ""
    started = int((tmp_path / "pid").read_text())
    retry.wait_until(lambda: process.ProcessId.of(started) is None, within_s=10, what="the orphan to end")


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    sample = Sample(datetime(2026, 11, 23, tzinfo=UTC), Op.READ_USER, 200, 1.5, 0.1, "")
    out = tmp_path / "samples"
    out.write_text(sample.to_json() + "\n" + sample.to_json()[:30])
    assert Load(process.ProcessId(0, 0), out, tmp_path / "log").samples() == [sample]


# --- together: what the demo relies on


def test_five_reconnects_under_load_fail_no_request(private: Any, tmp_path: Path) -> None:
    load = Load.start(plan_of(private, private.service.base_url, rate_per_s=60), tmp_path)
    retry.wait_until(lambda: len(load.samples()) >= 60, within_s=20, what="the load to begin", every_s=0.1)
    plain, ca = private.conninfo, private.service.folder / "ca.crt"
    for turn in range(5):
        private.service.tell(plain.but(sslmode="verify-full", sslrootcert=ca) if turn % 2 == 0 else plain)
        health = private.service.hang_up()
        assert (health["reconnect"], health["generation"]) == ("ok", turn + 2)
        time.sleep(0.5)
    load.stop()
    samples = load.samples()
    assert len(samples) > 150
    assert [(s.op, s.status, s.error) for s in samples if s.failed] == []
