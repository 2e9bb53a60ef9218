"""Children get a clean environment, are told by pid and start time, and end by a ladder of signals."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from dbsec import process
from dbsec.errors import ProgramError, ProgramMissing
from dbsec.process import Account, ProcessId

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@pytest.fixture
def spawn(tmp_path):
    made = []

    def start(*argv, **options):
        made.append(process.spawn(argv, cwd=tmp_path, log=tmp_path / "log", **options))
        return made[-1]

    yield start
    for pid in made:
        process.stop(pid)


def test_output_and_input(tmp_path):
    assert process.run(["cat"], cwd=tmp_path, stdin="höre") == "höre"
    assert process.run(["cat"], cwd=tmp_path) == ""


def test_a_child_inherits_nothing_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    assert set(process.run(["env"], cwd=tmp_path, env={"MINE": "1"}).splitlines()) == {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"HOME={tmp_path}",
        f"TMPDIR={tmp_path}",
        "LC_ALL=C.UTF-8",
        "TZ=UTC",
        "MINE=1",
    }


def test_a_failure_has_its_code_and_the_end_of_what_was_said(tmp_path):
    with pytest.raises(ProgramError, match="'sh' ended with 3: no luck") as failed:
        process.run(["sh", "-c", "echo no luck >&2; exit 3"], cwd=tmp_path, hint="try again")
    assert (failed.value.code, failed.value.tail, failed.value.hint) == (3, "no luck", "try again")
    with pytest.raises(ProgramError, match="ended with -9") as killed:
        process.run(["sh", "-c", "kill -9 $$"], cwd=tmp_path)
    assert killed.value.code == -signal.SIGKILL


def test_a_missing_program_is_told_with_its_hint(tmp_path):
    with pytest.raises(ProgramMissing, match="program '/nowhere/initdb' is not there") as missing:
        process.run(["/nowhere/initdb"], cwd=tmp_path, hint="make setup-extra")
    assert missing.value.hint == "make setup-extra"
    with pytest.raises(ProgramMissing):
        process.run_detaching(["/nowhere/pg_ctl"], cwd=tmp_path)
    with pytest.raises(ProgramMissing):
        process.spawn(["/nowhere/postgres"], cwd=tmp_path, log=tmp_path / "log")


def test_a_program_that_may_not_run_is_told(tmp_path):
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    with pytest.raises(ProgramError, match="may not run"):
        process.run([tmp_path / "plain"], cwd=tmp_path)
    with pytest.raises(ProgramError, match="may not be run"):
        process.spawn([tmp_path / "plain"], cwd=tmp_path, log=tmp_path / "log")


def test_a_time_out_is_told(tmp_path):
    with pytest.raises(ProgramError, match=r"'sleep' did not end within 0\.1 s"):
        process.run(["sleep", "10"], cwd=tmp_path, timeout_s=0.1)
    with pytest.raises(ProgramError, match=r"'sleep' did not end within 0\.1 s"):
        process.run_detaching(["sleep", "10"], cwd=tmp_path, timeout_s=0.1)


def test_a_folder_that_is_not_there_is_not_a_missing_program(tmp_path):
    with pytest.raises(ProgramError, match="nowhere"):
        process.run(["true"], cwd=tmp_path / "nowhere")


def test_a_server_runs_in_its_own_session_with_a_private_log(spawn, tmp_path):
    pid = spawn("sh", "-c", "echo out; echo err >&2; exec sleep 60")
    assert os.getsid(pid.pid) == pid.pid
    deadline = time.monotonic() + 10
    while (tmp_path / "log").read_text() != "out\nerr\n":
        assert time.monotonic() < deadline
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_log_is_never_written_through_a_link(tmp_path):
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        process.spawn(["true"], cwd=tmp_path, log=tmp_path / "log")
    assert not (tmp_path / "elsewhere").exists()


def test_stop_is_true_once(spawn):
    pid = spawn("sleep", "60")
    assert pid.alive
    assert process.stop(pid)
    assert not pid.alive
    assert not process.stop(pid)


def test_stop_climbs_to_sigkill(spawn, tmp_path):
    pid = spawn(sys.executable, "-c", STUBBORN)
    deadline = time.monotonic() + 10
    while "up" not in (tmp_path / "log").read_text():
        assert time.monotonic() < deadline
    assert process.stop(pid, ladder=((signal.SIGTERM, 0.1),))
    assert not pid.alive


def test_a_later_process_with_the_same_pid_is_left_alone(spawn):
    pid = spawn("sleep", "60")
    earlier = ProcessId(pid.pid, pid.started - 1)
    assert not earlier.alive
    assert not process.stop(earlier)
    assert pid.alive


def test_a_zombie_is_not_alive():
    child = os.fork()
    if child == 0:
        os._exit(0)
    deadline = time.monotonic() + 10
    while ProcessId.of(child) is not None:
        assert time.monotonic() < deadline
    os.waitpid(child, 0)
    assert ProcessId.of(child) is None


def test_a_name_with_a_bracket_does_not_confuse(tmp_path, spawn):
    odd = tmp_path / "a) Z 1"
    odd.symlink_to("/bin/sleep")
    pid = spawn(odd, "60")
    assert pid.alive
    assert pid.started > 0


def test_accounts():
    assert Account.current().uid == os.geteuid()
    assert Account.current().is_current
    assert Account.named("root").uid == 0
    with pytest.raises(KeyError):
        Account.named("no-such-account")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_gives_a_child_another_account_and_no_group_of_its_own(tmp_path):
    daemon = Account.named("daemon")
    said = process.run(["sh", "-c", "id -u; id -G"], cwd=tmp_path.__class__("/"), account=daemon)
    assert said.split() == [str(daemon.uid), str(daemon.gid)]


def test_the_end_of_a_log(tmp_path):
    (tmp_path / "log").write_text("a" * 3000 + "\nlast line\n")
    assert process.last_lines(tmp_path / "log", limit=12) == "a\nlast line"
    assert process.last_lines(tmp_path / "nowhere") == ""
