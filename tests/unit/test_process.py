"""Children get a clean environment, are told by pid and start time, and end by a ladder of signals."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from dbsec import process, retry
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


def spawn_to_log(argv, *, cwd):
    return process.spawn(argv, cwd=cwd, log=cwd / "log")


@pytest.mark.parametrize("start", [process.run, process.run_detaching, spawn_to_log])
def test_whatever_cannot_be_started_is_told_with_a_next_step(start, tmp_path):
    plain, foreign = tmp_path / "plain", tmp_path / "foreign"
    plain.write_text("#!/bin/sh\n")
    foreign.write_text("of another machine")
    foreign.chmod(0o755)
    for program, kind, said in (
        (plain, ProgramError, "may not run"),
        (foreign, ProgramError, "cannot be started: Exec format error"),
        (plain / "below-a-file", ProgramMissing, "is not there"),
    ):
        with pytest.raises(kind, match=said) as refused:
            start([program], cwd=tmp_path)
        assert refused.value.hint == f"ls -l {program}"


@pytest.mark.parametrize("start", [process.run, process.run_detaching])
def test_a_file_is_no_folder_to_run_in(start, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ProgramError, match="in which 'true' is to run") as refused:
        start(["true"], cwd=tmp_path / "file")
    assert not isinstance(refused.value, ProgramMissing)


def test_a_time_out_is_told(tmp_path):
    with pytest.raises(ProgramError, match=r"'sleep' did not end within 0\.1 s"):
        process.run(["sleep", "10"], cwd=tmp_path, timeout_s=0.1)
    with pytest.raises(ProgramError, match=r"'sleep' did not end within 0\.1 s"):
        process.run_detaching(["sleep", "10"], cwd=tmp_path, timeout_s=0.1)


@pytest.mark.parametrize("start", [process.run, process.run_detaching])
def test_a_time_out_ends_what_the_program_had_started(start, tmp_path):
    with pytest.raises(ProgramError, match="did not end within"):
        start(["sh", "-c", "sleep 60 & echo $! > grandchild; wait"], cwd=tmp_path, timeout_s=0.5)
    grandchild = int((tmp_path / "grandchild").read_text())
    deadline = time.monotonic() + 5
    while ProcessId.of(grandchild) is not None:
        assert time.monotonic() < deadline, "the grandchild is alive"


@pytest.mark.parametrize("leaves", ["", "setsid "])
def test_what_was_said_before_a_time_out_is_kept(leaves, tmp_path):
    script = f"echo waiting for höre >&2; {leaves}sh -c 'echo $$ > pid; exec sleep 30'"
    began = time.monotonic()
    with pytest.raises(ProgramError, match=r"'sh' did not end within 0\.5 s: waiting for höre") as late:
        process.run(["sh", "-c", script], cwd=tmp_path, timeout_s=0.5)
    assert late.value.tail == "waiting for höre"
    assert time.monotonic() - began < 15, "a pipe held open from another session was waited for"
    pid = int((tmp_path / "pid").read_text())
    if leaves:
        left = ProcessId.of(pid)
        assert left is not None
        assert process.stop(left)
    retry.wait_until(lambda: ProcessId.of(pid) is None, within_s=5, what="the grandchild's end")


def test_an_interrupt_ends_what_the_program_had_started(tmp_path):
    code = (
        "import signal; from dbsec import process; from pathlib import Path;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"  # a job in the background ignores it
        "process.run(['sh', '-c', 'sleep 0.5; echo $$ > child; sleep 60'], cwd=Path.cwd())"
    )
    ours = process.spawn([sys.executable, "-c", code], cwd=tmp_path, log=tmp_path / "log")
    deadline = time.monotonic() + 20
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text().strip():
        assert time.monotonic() < deadline
    process.stop(ours, ladder=((signal.SIGINT, 10.0),))
    assert "KeyboardInterrupt" in (tmp_path / "log").read_text()
    child = int((tmp_path / "child").read_text())
    while ProcessId.of(child) is not None:
        assert time.monotonic() < deadline, "the child is alive"


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
def test_an_account_without_a_name_is_named_by_its_number(tmp_path):
    child = os.fork()
    if child == 0:
        os.seteuid(54321)
        os._exit(0 if Account.current() == Account("uid:54321", 54321, os.getegid()) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_gives_a_child_another_account_and_no_group_of_its_own(tmp_path):
    daemon = Account.named("daemon")
    said = process.run(["sh", "-c", "id -u; id -G"], cwd=tmp_path.__class__("/"), account=daemon)
    assert said.split() == [str(daemon.uid), str(daemon.gid)]


def test_the_end_of_a_log(tmp_path):
    (tmp_path / "log").write_text("a" * 3000 + "\nlast line\n")
    assert process.last_lines(tmp_path / "log", limit=12) == "a\nlast line"
    assert process.last_lines(tmp_path / "nowhere") == ""
