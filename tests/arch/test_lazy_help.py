"""Help imports next to nothing: the set of modules is pinned, so that a heavy one is seen when it comes in."""

from __future__ import annotations

import json
import sys
import time

import pytest

from dbsec import process

SHOW = """
import json, sys
sys.argv = ["dbsec", *{argv!r}]
from dbsec.__main__ import main
try:
    main()
except SystemExit as exc:
    code = exc.code
print("\\n" + json.dumps(dict(code=code or 0, modules=sorted(sys.modules))))
"""
OURS = {
    "dbsec", "dbsec.__main__", "dbsec.cli", "dbsec.cli.app", "dbsec.cli.commands", "dbsec.cli.exits",
    "dbsec.cli.parameters", "dbsec.cli.start", "dbsec.discovery", "dbsec.errors", "dbsec.log",
}  # fmt: skip
OTHERS = {"annotated_doc", "shellingham", "typer"}
NOT_OF_AN_IMPORT = {"__main__", "__mp_main__", "_distutils_hack", "sitecustomize", "usercustomize"}


def imported(folder, *argv, code=0):
    """Run the command line in a process of its own and return the modules that it imported."""
    said = process.run([sys.executable, "-c", SHOW.format(argv=argv)], cwd=folder)
    told = json.loads(said.rstrip().rpartition("\n")[2])
    assert told["code"] == code
    return set(told["modules"])


def foreign(modules):
    tops = {name.partition(".")[0] for name in modules}
    return {t for t in tops - sys.stdlib_module_names - NOT_OF_AN_IMPORT if not t.startswith("__editable__")} - {
        "dbsec"
    }


@pytest.mark.parametrize(("argv", "code"), [(["--help"], 0), ([], 2)])
def test_help_imports_only_what_is_pinned(tmp_path, argv, code):
    modules = imported(tmp_path, *argv, code=code)
    assert foreign(modules) <= OTHERS
    assert {name for name in modules if name.partition(".")[0] == "dbsec"} == OURS


def test_a_heavy_import_would_be_seen(tmp_path):
    modules = imported(tmp_path, "lab", "--help")
    assert {"psycopg", "cryptography"} <= foreign(modules)


def test_how_long_help_takes(tmp_path):
    start = time.monotonic()
    process.run([sys.executable, "-m", "dbsec", "--help"], cwd=tmp_path)
    print(f"dbsec --help: {1000 * (time.monotonic() - start):.0f} ms (aim: 250)")
