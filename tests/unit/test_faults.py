"""The harness that kills jobs finds those that do not resume, and passes one that does."""

from __future__ import annotations

import re
import signal
import sys

import pytest

from dbsec import process
from dbsec.errors import ProgramError
from dbsec.journal import Edge
from dbsec.testing.faults import Job, kill_at, survives_kill_at_every_step

JOBS = '''
import os
from dbsec import files, journal

def _post(folder, observer, *, exactly_once):
    """Debit one file and credit another: each file must hold one line in the end."""
    with journal.open_file(folder / "journal.jsonl", observer=observer) as steps:
        for side in ("debit", "credit"):
            with steps.step(side) as step:
                target = folder / side
                if not step.done and not (exactly_once and step.interrupted and target.exists()):
                    with target.open("a") as stream:
                        stream.write("100\\n")

def good(folder, observer):
    _post(folder, observer, exactly_once=True)

def doubles(folder, observer):
    _post(folder, observer, exactly_once=False)

def forgets(folder, observer):
    """Loses the second effect when it is killed before it: it trusts 'begun'."""
    with journal.open_file(folder / "journal.jsonl", observer=observer) as steps:
        for side in ("debit", "credit"):
            with steps.step(side) as step:
                if not step.done and not step.interrupted:
                    (folder / side).write_text("100\\n")

def fails(folder, observer):
    raise SystemExit(4)

def stepless(folder, observer):
    (folder / "debit").write_text("100\\n")
    (folder / "credit").write_text("100\\n")
'''


@pytest.fixture
def lives(tmp_path):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "jobs.py").write_text(JOBS)

    def lives(function, **limits):
        job = Job(f"jobs:{function}", search=[folder])
        return survives_kill_at_every_step(job, scratch=tmp_path, check=each_file_has_one_line, **limits)

    return lives


def each_file_has_one_line(folder):
    assert [(folder / side).read_text() for side in ("debit", "credit")] == ["100\n", "100\n"]


def test_a_job_that_asks_whether_it_was_interrupted_is_exactly_once(lives):
    deaths = lives("good")
    assert deaths == [(side, edge) for side in ("debit", "credit") for edge in Edge]


@pytest.mark.parametrize("job", ["doubles", "forgets"])
def test_a_job_that_does_not_resume_is_found(lives, job):
    with pytest.raises((AssertionError, FileNotFoundError)):
        lives(job)


def test_a_job_that_fails_by_itself_is_no_kill(lives):
    with pytest.raises(ProgramError, match="ended with 4"):
        lives("fails")


def test_a_job_without_steps_proves_nothing(lives):
    with pytest.raises(AssertionError, match="no step to be killed at"):
        lives("stepless")


def test_a_step_that_is_never_reached_is_an_error(lives):
    with pytest.raises(AssertionError, match=re.escape("never reached ['refund']")):
        lives("good", steps=["debit", "refund"])


def test_the_killer_waits_for_its_edge(tmp_path):
    code = (
        "from dbsec.testing.faults import kill_at; from dbsec.journal import Edge; k = kill_at('a', Edge.BEFORE);"
        "k('a', Edge.AFTER_EFFECT); k('b', Edge.BEFORE); print('alive', flush=True); k('a', Edge.BEFORE); print('no')"
    )
    with pytest.raises(ProgramError) as died:
        process.run([sys.executable, "-c", code], cwd=tmp_path)
    assert died.value.code == -signal.SIGKILL
    assert died.value.tail == "alive"
    assert kill_at("a", Edge.BEFORE)("b", Edge.BEFORE) is None
