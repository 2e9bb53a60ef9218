"""Work in shares: what a fork hands back, and that many files get the verdicts of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from dbsec.cli.migrate.judging import _cuts
from dbsec.migrations import relay
from dbsec.migrations.interpret import operations_of
from dbsec.migrations.linter import all_rules
from dbsec.migrations.operations import SetVariable
from dbsec.migrations.reading.parse import parse_text
from dbsec.migrations.schema.apply import SHAPING

FORKS = """
import os, sys
from dbsec.shares import Fork

def broken():
    raise RuntimeError("told nowhere")

parent = os.getpid()
large = Fork(lambda: b"x" * (1 << 22))
print("kept", end="")  # what a buffer holds is written once, by the process that was copied
forks = [large, Fork(lambda: str(os.getpid() != parent).encode()), Fork(broken)]
told = [fork.result() for fork in forks]
print([None if one is None else len(one) for one in told])
"""
HANDOUT = """
from dbsec.shares import Fork, Handout

def took(handout):
    handout.join()
    return repr(handout.take()).encode()

for told in (b"abc", b"abcd", None):
    handout = Handout(3)
    forks = [Fork(lambda: took(handout)) for _ in range(2)]
    if told is None:
        handout.join()
    else:
        handout.give(told)
    print(*(fork.result().decode() for fork in forks), flush=True)
"""
DEEP = """
from dbsec.migrations import linter
from dbsec.migrations.operations import CreateTable
foretell = linter.foretell

def shallow(operation, *state, **told):
    if isinstance(operation, CreateTable) and operation.table.name == "t0":
        raise RecursionError
    return foretell(operation, *state, **told)

linter.foretell = shallow
"""
LINT = """
import sys
from dbsec.cli.migrate import judging, linting
judging.processors = lambda: {processors}
judging._MANY = {many}

class Sure(judging.Fork):
    def result(self):
        told = super().result()
        assert (told is None) is {broken}
        return told

judging.Fork = Sure
if {broken}:
    judging.msgpack.encode = None
sys.exit(linting.run(linting.Asked(paths=("m",), form="{form}", pg_version="17", baseline=None)))
"""


def python(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def test_forks_hand_back_bytes_and_one_that_fails_none():
    done = python(FORKS)
    assert done.stderr.count("RuntimeError") <= 1
    assert done.stdout == f"kept[{1 << 22}, 4, None]\n"


def test_copies_get_what_is_handed_out_and_nothing_where_it_is_too_much_or_never_given():
    assert python(HANDOUT).stdout == "b'abc' b'abc'\nb'' b''\nb'' b''\n"


def test_operations_come_through_as_they_were():
    found = [
        [operation for statement in parse_text(sql) for operation in operations_of(statement)]
        for rule in all_rules().values()
        for example in (rule.example, *rule.more)
        for sql in (example.setup, example.bad, example.good)
    ]
    shaping = [[one for one in script if isinstance(one, SHAPING)] for script in found]
    assert sum(map(len, shaping)) > 300
    assert relay.unpack(relay.pack(found)) == shaping
    assert relay.pack([[SetVariable("search_path", "\ud800")]]) == b""


@pytest.mark.parametrize(
    ("sizes", "processors", "cuts"),
    [
        ([], 2, [(0, 0)]),
        ([10] * 10, 2, [(0, 10)]),  # too few to share
        ([1 << 14] * 100, 1, [(0, 100)]),
        ([1 << 14] * 100, 2, [(0, 56), (56, 100)]),
        ([1 << 14] * 100, 8, [(0, 39), (39, 68), (68, 87), (87, 100)]),
        ([1, 1 << 20, 1], 2, [(0, 1), (1, 3)]),
    ],
)
def test_later_shares_are_smaller(monkeypatch, sizes, processors, cuts):
    monkeypatch.setattr("dbsec.cli.migrate.judging.processors", lambda: processors)  # hook: ok a number
    assert _cuts(sizes) == cuts


def _files(folder):
    """Files whose verdicts hang on those before them: across each cut."""
    folder.mkdir()
    texts = {}
    for number in range(0, 60, 6):
        table = f"t{number}"
        texts |= {
            number: f"CREATE TABLE {table} (id int PRIMARY KEY, at date);\nALTER TABLE old_{number} ADD COLUMN c int;",
            number + 1: f"BEGIN;\nDROP TABLE {table};\nROLLBACK;\nCREATE INDEX ON {table} (at);",
            number + 2: f"ALTER TABLE {table} ALTER COLUMN at TYPE text;\nALTER TABLE old_{number} DROP COLUMN c;",
            number + 3: f"-- dbsec: allow MIG4 x until 2001-01-01 because old\nTRUNCATE {table};\nTRUNCATE x{number};",
            number + 4: f"-- dbsec: allow MIG101 until 2999-01-01 because small\nCREATE INDEX ON u{number} (a);",
            number + 5: f"SET search_path = app{number};\nCREATE INDEX ON {table} (id);\nSELEC 1;\n"
            f"ALTER TABLE public.t0 ADD COLUMN c{number} uuid DEFAULT gen_random_uuid();",
        }
    for number, text in texts.items():
        (folder / f"{number:03}.sql").write_text(text + "\n")


@pytest.mark.parametrize(
    ("processors", "broken", "form"), [(2, False, "json"), (4, False, "json"), (3, True, "json"), (2, False, "gitlab")]
)
def test_shares_tell_what_one_process_tells(tmp_path, processors, broken, form):
    _files(tmp_path / "m")
    alone = python(LINT.format(processors=1, many=0, broken=False, form=form), cwd=tmp_path)
    together = python(LINT.format(processors=processors, many=0, broken=broken, form=form), cwd=tmp_path)
    told = json.loads(alone.stdout)
    assert len(told["findings"] if form == "json" else told) > 60
    assert (together.returncode, together.stdout) == (alone.returncode, alone.stdout)
    if not broken:
        assert together.stderr == alone.stderr


def test_after_a_statement_too_deep_to_judge_one_process_goes_on(tmp_path):
    """It does not change the schema; who only shapes the schema would not know."""
    _files(tmp_path / "m")
    (tmp_path / "m/000.sql").write_text("CREATE TABLE t0 (id int);\n")
    alone, together = (
        python(DEEP + LINT.format(processors=n, many=0, broken=False, form="json"), cwd=tmp_path) for n in (1, 2)
    )
    assert "nested too deeply to be judged" in alone.stderr
    assert (together.returncode, together.stdout) == (alone.returncode, alone.stdout)


def test_the_program_itself_shares(tmp_path):
    """The command line's own limits, with as many processors as there are."""
    (tmp_path / "m").mkdir()
    for number in range(300):
        indexes = [f"CREATE INDEX ON t{number} (a{place});\n" for place in range(6)]
        (tmp_path / f"m/{number:03}.sql").write_text("".join(indexes))
    argv = [sys.executable, "-m", "dbsec", "migrate", "lint", "--format", "json", "m"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    one = {next(iter(os.sched_getaffinity(0)))}
    pinned = subprocess.run(
        argv, cwd=tmp_path, capture_output=True, text=True, check=False, preexec_fn=lambda: os.sched_setaffinity(0, one)
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, pinned.stdout, pinned.stderr)
