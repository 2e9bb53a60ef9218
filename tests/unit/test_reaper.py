"""The reaper finds a child, a daemon that left its parent and a listener, and nothing where nothing is left."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time

import pytest

from dbsec import process
from dbsec.process import ProcessId
from dbsec.testing.reaper import nothing_survives

FORKS_AND_LEAVES = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
os.wait()
"""


def test_a_quiet_block_passes(tmp_path):
    with nothing_survives(), socket.create_server(("127.0.0.1", 0)):
        process.run(["true"], cwd=tmp_path)


def test_a_child_is_told_and_stopped(tmp_path):
    with pytest.raises(AssertionError, match=r"left behind: process \d+ \(sleep\)"), nothing_survives(within_s=0.1):
        child = process.spawn(["sleep", "60"], cwd=tmp_path, log=tmp_path / "log")
    assert not child.alive


def test_a_daemon_that_left_its_parent_is_told_and_stopped():
    with pytest.raises(AssertionError, match="left behind") as told, nothing_survives(within_s=0.1):
        subprocess.run([sys.executable, "-c", FORKS_AND_LEAVES], check=True)
    (pid,) = map(int, re.findall(r"process (\d+)", str(told.value)))
    assert ProcessId.of(pid) is None


def test_a_listener_is_told():
    with pytest.raises(AssertionError) as told, nothing_survives(within_s=0.1):
        listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        assert str(told.value) == f"left behind: a listener on port {listener.getsockname()[1]}"


def test_what_was_there_before_and_what_is_spared_may_stay(tmp_path):
    before = process.spawn(["sleep", "60"], cwd=tmp_path, log=tmp_path / "log")
    made = []
    try:
        with nothing_survives(within_s=0.1, spare=lambda: made):
            made.append(process.spawn(["sleep", "60"], cwd=tmp_path, log=tmp_path / "log"))
        assert before.alive
        assert made[0].alive
    finally:
        for child in (before, *made):
            process.stop(child)


def test_a_child_that_ends_soon_is_no_survivor(tmp_path):
    start = time.monotonic()
    with nothing_survives(within_s=5):
        process.spawn(["sleep", "0.2"], cwd=tmp_path, log=tmp_path / "log")
    assert time.monotonic() - start < 4


def test_the_error_of_the_block_is_not_hidden():
    with pytest.raises(ValueError, match="mine"), nothing_survives(within_s=0.1):
        raise ValueError("mine")
