"""A journal resumes where a kill stopped it, and refuses what it did not write."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbsec import journal
from dbsec.errors import JournalError, LabError, NewerFormat
from dbsec.journal import Edge, Journal

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


class Memory:
    """A store that keeps records as the file does: as JSON."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def read(self) -> list[Any]:
        return [json.loads(line) for line in self.lines]

    def append(self, record: Any) -> None:
        self.lines.append(json.dumps(dict(record)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "move.jsonl"


def test_a_step_runs_once_and_its_result_is_kept(path):
    calls = []
    for _ in range(3):
        with journal.open_file(path) as steps:
            assert steps.run("copy", lambda: calls.append(1) or {"rows": (1, 2)}) == {"rows": [1, 2]}
    assert len(calls) == 1


@given(result=json_values, facts=st.dictionaries(st.from_regex("[a-z]{1,8}", fullmatch=True), json_values, max_size=3))
def test_a_later_run_sees_what_the_first_saw(result, facts):
    facts = {f"f_{name}": value for name, value in facts.items()}  # "name" and "act" are parameters
    store = Memory()
    first = Journal(store).run("step", lambda: result, **facts)
    again = Journal(store).run("step", lambda: pytest.fail("ran twice"), **facts)
    assert again == first == result


def test_the_block_form_tells_done_and_interrupted(path):
    with journal.open_file(path) as steps, steps.step("copy") as step:
        assert (step.done, step.interrupted) == (False, False)
        step.result = 7
    with journal.open_file(path) as steps, steps.step("copy") as step:
        assert (step.done, step.result) == (True, 7)


def test_a_kill_between_effect_and_record_shows_as_interrupted(path):
    def die(step: str, edge: Edge) -> None:
        if edge is Edge.AFTER_EFFECT:
            os._exit(9)

    child = os.fork()
    if child == 0:
        with journal.open_file(path, observer=die) as steps:
            steps.run("copy", lambda: 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with journal.open_file(path) as steps, steps.step("copy") as step:
        assert (step.done, step.interrupted) == (False, True)


def test_a_failed_step_is_recorded_and_runs_again(path):
    def fail() -> None:
        raise ValueError("password=hunter2")

    with journal.open_file(path) as steps:
        with pytest.raises(ValueError, match="hunter2"):
            steps.run("copy", fail)
        with pytest.raises(LabError), steps.step("start"):
            raise LabError("port 1 is in use")
    text = path.read_text()
    assert "hunter2" not in text
    assert '"error":"ValueError"' in text
    assert '"error":"port 1 is in use"' in text
    with journal.open_file(path) as steps:
        with steps.step("copy") as step:
            assert (step.done, step.interrupted) == (False, False)
        assert steps.done() == ["copy"]


def test_edges_are_seen_in_order(path):
    seen = []
    with journal.open_file(path, observer=lambda step, edge: seen.append((step, str(edge)))) as steps:
        steps.run("a", lambda: seen.append("effect"))
        steps.run("a", lambda: seen.append("effect"))
    assert seen == [("a", "before"), "effect", ("a", "after-effect"), ("a", "after-record")]


def test_other_facts_are_refused(path):
    with journal.open_file(path) as steps:
        steps.run("copy", lambda: 1, table="orders")
    with (
        journal.open_file(path) as steps,
        pytest.raises(JournalError, match=re.escape('{"table":"orders"}, not for {"table":"users"}')),
    ):
        steps.run("copy", lambda: pytest.fail("ran for other facts"), table="users")


def test_every_cut_of_the_last_line_resumes_and_no_other_change_does(path):
    with journal.open_file(path) as steps:
        steps.run("a", lambda: 1)
        steps.run("b", lambda: 2)
    whole = path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        with journal.open_file(path) as steps:
            assert steps.done() == ["a"]
            assert steps.run("b", lambda: 3) == 3
        with journal.open_file(path) as steps:
            assert steps.done() == ["a", "b"]


@given(st.data())
def test_any_changed_byte_before_the_last_line_is_found(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("journal") / "a.jsonl"
    with journal.open_file(path) as steps:
        steps.run("a", lambda: "x")
        steps.run("b", lambda: "y")
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1), label="byte")
    raw[at] ^= data.draw(st.integers(1, 255), label="mask")
    path.write_bytes(raw)
    only_the_end_was_torn = at == len(raw) - 1
    try:
        with journal.open_file(path) as steps:
            assert only_the_end_was_torn
            assert steps.done() == ["a"]
    except (JournalError, NewerFormat):
        assert not only_the_end_was_torn


def test_a_dropped_or_doubled_line_is_found(path):
    with journal.open_file(path) as steps:
        steps.run("a", lambda: 1)
    header, begun, done = path.read_bytes().splitlines(keepends=True)
    for damaged in (header + done, header + begun + begun + done, header + done + begun):
        path.write_bytes(damaged)
        with pytest.raises(JournalError, match=r"is damaged: record [12]"), journal.open_file(path):
            pass


def test_a_newer_format_and_a_file_of_others_are_told_apart(path):
    path.parent.mkdir()
    path.write_text('{"format":2,"magic":"dbsec-journal"}\n')
    with pytest.raises(NewerFormat, match="written by a newer dbsec"), journal.open_file(path):
        pass
    magic = b'"magic":"dbsec-journal"'
    headers = (b"{%b}\n" % magic, b'{"format":0,%b}\n' % magic, b'{"format":1,%b}' % magic)
    for content in (b"", b"hello", b"hello\n", b"[]\n", *headers):
        path.write_bytes(content)
        with pytest.raises(JournalError, match="is not a journal"), journal.open_file(path):
            pass
        assert path.read_bytes() == content


def test_a_second_process_is_refused_and_the_lock_dies_with_its_holder(path):
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with journal.open_file(path):
            os.write(told, b"x")
            signal.pause()
    os.read(ready, 1)
    with pytest.raises(JournalError, match="another process runs"), journal.open_file(path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with journal.open_file(path) as steps:
        assert steps.done() == []


def test_a_write_that_fails_ends_the_journal_and_the_next_run_resumes(path):
    """RLIMIT_FSIZE stands in for a full disk: the kernel writes a part of the line, then refuses."""
    child = os.fork()
    if child == 0:
        _fail_to_write(path)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with journal.open_file(path) as steps:
        assert steps.done() == ["a"]
        assert steps.run("b", lambda: 2) == 2


def _fail_to_write(path: Path) -> None:
    code = 1
    try:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with journal.open_file(path) as steps:
            steps.run("a", lambda: 1)
            limit = path.stat().st_size + 30
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            with pytest.raises(JournalError, match="cannot write"):
                steps.run("b", lambda: 2)
            with pytest.raises(JournalError, match="is closed"):
                steps.run("c", lambda: 3)
            assert path.stat().st_size == limit  # torn indeed
        code = 0
    finally:
        os._exit(code)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot open"), journal.open_file(tmp_path / "file" / "a.jsonl"):
        pass


def test_the_file_is_private(path):
    with journal.open_file(path) as steps:
        steps.run("a", lambda: 1)
    assert {oct(p.stat().st_mode & 0o777) for p in path.parent.iterdir()} == {"0o600"}
