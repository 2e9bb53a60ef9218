"""``dbsec backfill`` as a process: run, status, pause from another terminal, and its exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dbsec import backfill, files
from dbsec.backfill import State

pytestmark = pytest.mark.pg(17)
JOB = 'format = 1\ntable = "app.t"\nkey = "id"\nset = "n = n + 1"\nbatch_rows = 50\n'


@pytest.fixture
def command(scene: Any, tmp_path: Path) -> Iterator[Any]:
    files.write_atomic(tmp_path / "dsn", scene.conninfo.text())
    (tmp_path / "007_count.toml").write_text(JOB)

    with ExitStack() as stack:

        def start(*argv: str) -> subprocess.Popen[str]:
            whole = [sys.executable, "-m", "dbsec", "backfill", *argv, "--dsn", "file:dsn"]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            child = subprocess.Popen(whole, cwd=tmp_path, text=True, **pipes)
            stack.enter_context(child)
            stack.callback(child.kill)
            return child

        yield start


def ended(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = child.communicate(timeout=60)
    return child.returncode, out, err


def test_run_status_and_a_second_run(command, scene):
    scene.table(1000)
    code, out, err = ended(command("run", "007_count.toml", "--workers", "2", "--format", "json"))
    assert (code, scene.times()) == (0, {1: 1000}), err
    result = json.loads(out)["result"]
    assert (result["name"], result["state"], result["visited"], result["eta_s"]) == ("007_count", "done", 1000, None)
    assert "007_count: rows, of an estimate" in err
    code, out, _ = ended(command("status"))
    assert code == 0
    assert out.startswith("007_count: done; 1,000 rows of about 1,000 visited, 1,000 written, range 2/2")
    assert ended(command("run", "007_count.toml"))[0] == 0
    assert scene.times() == {1: 1000}


def test_pause_abort_resume_from_another_terminal_and_ctrl_c(command, scene, tmp_path):
    scene.table(40000)
    (tmp_path / "007_count.toml").write_text(JOB.replace("rows = 50", "rows = 10") + "batch_rows_max = 10\n")
    running = command("run", "007_count.toml", "--workers", "2")
    scene.until("SELECT coalesce(sum(visited), 0) > 200 FROM dbsec.backfill_ranges", "some batches")
    code, out, _ = ended(command("pause", "007_count", "--format", "json"))
    paused = json.loads(out)["result"]
    assert (code, paused["state"]) == (0, "paused")
    assert 200 < paused["visited"] < 40000
    assert ended(command("resume", "007_count"))[0] == 0
    scene.until(f"SELECT sum(visited) > {paused['visited']} FROM dbsec.backfill_ranges", "it to go on")
    assert ended(command("abort", "007_count"))[0] == 0
    code, out, _ = ended(running)
    assert code == 3
    assert out.startswith("007_count: aborted;")
    code, _, err = ended(command("run", "007_count.toml"))
    assert (code, "  try: dbsec backfill resume 007_count" in err) == (3, True)
    backfill.resume(scene.db, "007_count")
    running = command("run", "007_count.toml")
    before = backfill.status(scene.db, "007_count").visited
    scene.until(f"SELECT sum(visited) > {before} FROM dbsec.backfill_ranges", "it to go on")
    running.send_signal(signal.SIGINT)
    code, _, err = ended(running)
    assert code not in (0, 1)
    assert "Traceback" not in err
    status = backfill.status(scene.db, "007_count")
    assert status.state is State.RUNNING
    assert scene.times() == {0: 40000 - status.visited, 1: status.visited}


def test_forget_tells_before_it_does(command, scene):
    scene.table(10)
    assert ended(command("run", "007_count.toml"))[0] == 0
    code, _, err = ended(command("forget", "007_count"))
    assert (code, "nothing was deleted" in err) == (0, True)
    assert backfill.status(scene.db, "007_count")
    assert ended(command("forget", "007_count", "--apply"))[0] == 0
    assert backfill.statuses(scene.db) == []


def test_usage_errors_have_exit_code_2(command, tmp_path):
    (tmp_path / "bad.toml").write_text(JOB.replace("key", "kee"))
    code, _, err = ended(command("run", "bad.toml"))
    assert (code, "did you mean 'key'?" in err) == (2, True)
    code, _, err = ended(command("pause", "nobody"))
    assert (code, "there is no backfill 'nobody'" in err) == (2, True)
