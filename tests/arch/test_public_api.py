"""What is public is typed, listed in docs/api.txt, and all that the reference service uses."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import pytest

import dbsec
from dbsec import process

ROOT = Path(__file__).parents[2]
GROUND = {
    "canonical", "clock", "config", "discovery", "errors", "evidence", "files", "findings", "log", "metrics", "process",
    "progress", "retry", "secret",
}  # fmt: skip


def _load_api() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scripts_api", ROOT / "scripts" / "api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


api = _load_api()


def test_the_package_says_that_it_is_typed():
    assert (Path(dbsec.__path__[0]) / "py.typed").exists()


def test_the_list_of_public_names_is_up_to_date():
    listed = (ROOT / "docs" / "api.txt").read_text().splitlines()[1:]
    assert list(api.lines()) == listed, "run: python scripts/api.py"


def test_the_list_is_the_same_in_another_process(tmp_path):
    """No address, no order of a set: else each run would differ."""
    code = f"import runpy; m = runpy.run_path({str(ROOT / 'scripts/api.py')!r}); print(*m['lines'](), sep='\\n')"
    said = process.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONHASHSEED": "7"})
    assert said.splitlines() == list(api.lines())


@pytest.mark.parametrize("name", api.public_modules())
def test_every_public_name_is_there_and_typed(name):
    module = importlib.import_module(name)
    for public in module.__all__:
        assert untyped(getattr(module, public)) == [], f"{name}.{public}"


def untyped(value: Any) -> list[str]:
    """Name the parameters and returns without a type of a function, or of a class's own methods."""
    found = []
    for name, function in {"": value, **api.methods(value)}.items():
        if isinstance(function, property):
            function = function.fget
        if inspect.isclass(function) or not callable(function) or get_origin(function) is not None:
            continue
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
        found += [f"{name}({p.name})" for p in parameters if p.annotation is p.empty]
        found += [f"{name} ->"] if signature.return_annotation is inspect.Signature.empty else []
    return found


class Half:
    def method(self, given: int, missing) -> None: ...

    @property
    def of(self): ...


def test_what_is_not_typed_is_seen():
    assert untyped(Half) == ["method(missing)", "of ->"]
    assert untyped(lambda a: a) == ["(a)", " ->"]


def private(source: str) -> Iterator[str]:
    """Yield what a module takes from dbsec that is not public."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (n.name for n in node.names if n.name.partition(".")[0] == "dbsec")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "dbsec":
            yield from (f"{node.module}.{n.name}" for n in node.names if not _public(str(node.module), n.name))


def _public(module: str, name: str) -> bool:
    if module == "dbsec":
        return name in GROUND
    if module.removeprefix("dbsec.") in GROUND:
        return not name.startswith("_")
    return name in getattr(importlib.import_module(module), "__all__", ())


def test_the_service_takes_public_names_only():
    paths = list((ROOT / "app").rglob("*.py"))
    assert len(paths) > 10
    assert {p.name: found for p in paths if (found := list(private(p.read_text())))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import dbsec.pg",
        "import dbsec.pg.connect as c",
        "from dbsec import pg",
        "from dbsec.pg.facts import sessions",
        "from dbsec.pg import sql",
        "from dbsec.secret import _private_text",
        "def f():\n    from dbsec.lab import dataset",
    ],
)
def test_a_private_import_is_seen(source):
    assert list(private(source))


def test_a_public_import_is_none():
    assert not list(private("from dbsec import log\nfrom dbsec.secret import Secret\nfrom dbsec.pg import connect"))
