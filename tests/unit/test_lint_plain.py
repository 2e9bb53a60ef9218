"""The plain form of ``dbsec migrate lint``: what is read without typer is what typer would have read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from dbsec.cli.commands import migrate
from dbsec.cli.migrate import linting, plain

PLAIN = (
    ["m"],
    ["m", "n/a.sql"],
    ["--format", "json", "m"],
    ["m", "--format=sarif"],
    ["--pg-version", "17", "m", "--schema", "s.sql", "n"],
    ["m", "--stats=a=b.json", "--output", "out", "--changed-since", "origin/main"],
    ["m", "--baseline", "b.json", "--fail-on", "warning"],
)
LEFT_TO_TYPER = (
    [],
    [""],
    ["-"],
    ["--help"],
    ["m", "--fix"],
    ["m", "--dsn", "env:DSN"],
    ["m", "--select", "MIG1"],
    ["m", "--format", "xml"],
    ["m", "--format"],
    ["m", "--format="],
    ["m", "--output", "--fix"],
    ["m", "--fail-on", "ERROR"],
    ["--format", "json", "--format", "text", "m"],
    ["m", "--", "-x"],
    ["m", "--form", "json"],
)


@pytest.fixture
def typed(monkeypatch):
    """Read the options through typer; returns what linting is asked for."""

    def _typed(argv: list[str]) -> linting.Asked:
        asked: list[linting.Asked] = []

        def keep(given: linting.Asked, **_: Any) -> int:
            asked.append(given)
            return 0

        monkeypatch.setattr(linting, "run", keep)  # hook: ok keeps what it is given
        typer.main.get_command(migrate.COMMAND).main(["lint", *argv], standalone_mode=False)
        (one,) = asked
        return one

    return _typed


@pytest.mark.parametrize("argv", PLAIN, ids=" ".join)
def test_plain_options_mean_what_typer_reads(typed, argv):
    given = plain.read(argv)
    assert given is not None
    assert linting.Asked(**given) == typed(argv)


@pytest.mark.parametrize("argv", LEFT_TO_TYPER, ids=" ".join)
def test_all_else_is_left_to_typer(argv):
    assert plain.read(argv) is None


def test_each_plain_option_is_one_of_the_command():
    command = typer.main.get_command(migrate.COMMAND).commands["lint"]  # type: ignore[attr-defined]
    known = {option for param in command.params for option in param.opts}
    assert set(plain.OPTIONS) <= known
    assert {field for field, _ in plain.OPTIONS.values()} <= set(linting.Asked.__struct_fields__)


def test_a_path_stays_as_it_was_typed():
    assert plain.read(["./m/../n", "--schema", "./s.sql"]) == {"paths": ("./m/../n",), "schema": Path("./s.sql")}


def test_what_a_plain_run_never_uses_is_not_imported(tmp_path):
    (tmp_path / "a.sql").write_text("DROP TABLE users;\n")
    code = (
        "import sys; from dbsec.cli.start import run; sys.argv = ['dbsec', 'migrate', 'lint', 'a.sql']\n"
        "unused = ('dataclasses', 'inspect', 'json', 'typing_extensions')\n"
        "def ready(name): return name in sys.modules and '__getattr__' not in vars(sys.modules[name])\n"
        "try: run()\nfinally: print([name for name in unused if ready(name)], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "['dataclasses']\n")
