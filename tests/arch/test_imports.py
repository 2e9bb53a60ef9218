"""The import contract holds, and each way of breaking it is seen."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import dbsec
from dbsec import process
from dbsec.errors import ProgramError

CONTRACT = Path(__file__).parents[2] / ".importlinter"
LINT = Path(sys.executable).parent / "lint-imports"

# file -> a line that must not be there, and what the linter says of it
FORBIDDEN = {
    "upwards": ("pg/lsn.py", "import dbsec.journal", "dbsec.pg is not allowed to import dbsec.journal"),
    "upwards from the ground": ("retry.py", "import dbsec.pg", "dbsec.retry is not allowed to import dbsec.pg"),
    "sideways": ("tls/context.py", "import dbsec.roles", "dbsec.tls is not allowed to import dbsec.roles"),
    "errors below all": ("errors.py", "import dbsec.clock", "dbsec.errors is not allowed to import dbsec.clock"),
    "hidden in a function": ("report/svg.py", "def f(): import dbsec.cli.exits", "dbsec.report is not allowed"),
    "a layer that nobody named": ("utils.py", "", "dbsec.utils"),
}


def lint(folder: Path) -> str:
    """Judge the package below ``folder``, which comes before the installed one."""
    return process.run([LINT, "--no-cache", "--config", CONTRACT], cwd=folder, env={"PYTHONPATH": str(folder)})


def test_imports_point_one_way():
    assert "1 kept, 0 broken" in lint(Path(dbsec.__path__[0]).parent)


@pytest.mark.parametrize("case", FORBIDDEN)
def test_a_forbidden_import_is_seen(tmp_path, case):
    name, line, said = FORBIDDEN[case]
    shutil.copytree(dbsec.__path__[0], tmp_path / "dbsec", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "dbsec" / name).open("a") as stream:
        stream.write(f"\n{line}\n")
    with pytest.raises(ProgramError) as broken:
        lint(tmp_path)
    assert "0 kept, 1 broken" in broken.value.tail
    assert said in " ".join(broken.value.tail.split())
