"""One place starts processes, one opens connections, one looks at its surroundings; nobody else does."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

import dbsec

ROOT = Path(dbsec.__path__[0])


@dataclass(frozen=True)
class Boundary:
    """What only some files may use; ``main`` is what a file may also use where it is run as a program."""

    allowed: tuple[str, ...]
    names: tuple[str, ...]
    main: tuple[str, ...] = ()


BOUNDARIES = {
    "processes": Boundary(
        ("process.py", "shares.py"),
        (
            *("subprocess*", "multiprocessing*", "pty*", "os.system", "os.popen", "os.fork*", "os.exec*", "os.spawn*"),
            *("os.posix_spawn*", "asyncio.create_subprocess*", "concurrent.futures.ProcessPoolExecutor"),
        ),
    ),
    "connections": Boundary(
        ("pg/connect.py",), ("psycopg.connect", "psycopg.*Connection.connect", "psycopg_pool*", "asyncpg*", "psycopg2*")
    ),
    "surroundings": Boundary(
        ("cli/*",),
        ("os.environ*", "os.getenv*", "sys.argv", "sys.stdin", "input", "getpass.getpass"),
        ("sys.argv", "sys.stdin"),
    ),
}


def used(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a module imports or uses, aliases resolved."""
    aliases = {name: name for name in dir(builtins)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                aliases[name.asname or name.name.partition(".")[0]] = name.name if name.asname else _first(name.name)
                yield name.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                aliases[name.asname or name.name] = f"{node.module}.{name.name}"
                yield f"{node.module}.{name.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            if root in aliases:
                yield f"{aliases[root]}.{rest}".rstrip(".")


def _first(dotted: str) -> str:
    return dotted.partition(".")[0]


def crossed(source: str, boundary: Boundary) -> set[str]:
    """Return the names beyond a boundary that a module uses."""
    module = ast.parse(source)
    mains = [n for n in module.body if isinstance(n, ast.If) and ast.unparse(n.test) == "__name__ == '__main__'"]
    names = set(used(ast.Module([n for n in module.body if n not in mains], [])))
    imports = [n for n in module.body if isinstance(n, ast.Import | ast.ImportFrom)]
    names |= {n for n in used(ast.Module([*imports, *mains], [])) if not any(fnmatch(n, m) for m in boundary.main)}
    return {n for n in names if any(fnmatch(n, forbidden) for forbidden in boundary.names)}


@pytest.mark.parametrize("name", BOUNDARIES)
def test_nobody_crosses(name):
    boundary = BOUNDARIES[name]
    paths = {str(path.relative_to(ROOT)): path for path in ROOT.rglob("*.py") if "_deployment" not in path.parts}
    judged = [p for p in paths if not any(fnmatch(p, allowed) for allowed in boundary.allowed)]
    assert len(judged) > 50
    assert {p: found for p in judged if (found := crossed(paths[p].read_text(), boundary))} == {}


@pytest.mark.parametrize("name", BOUNDARIES)
def test_those_who_may_do(name):
    """A boundary that nothing crosses would be drawn around the wrong place."""
    boundary = BOUNDARIES[name]
    allowed = [path for pattern in boundary.allowed for path in ROOT.glob(pattern) if path.suffix == ".py"]
    assert any(crossed(path.read_text(), boundary) for path in allowed)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("processes", "import subprocess"),
        ("processes", "from subprocess import run as go"),
        ("processes", "import os\ndef f():\n    os.system('true')"),
        ("processes", "from os import execv"),
        ("processes", "import os as o\no.fork()"),
        ("processes", "import asyncio\nasync def f(): await asyncio.create_subprocess_exec('true')"),
        ("connections", "import psycopg\npsycopg.connect('')"),
        ("connections", "from psycopg import connect as c"),
        ("connections", "import psycopg\nasync def f(): await psycopg.AsyncConnection.connect('')"),
        ("connections", "from psycopg import Connection\nConnection.connect('')"),
        ("surroundings", "import os\nhome = os.environ['HOME']"),
        ("surroundings", "from os import getenv"),
        ("surroundings", "import sys\ndef main(): print(sys.argv)"),
        ("surroundings", "name = input()"),
        ("surroundings", "import os\nif __name__ == '__main__': print(os.environ)"),
    ],
)
def test_a_crossing_is_seen(name, source):
    assert crossed(source, BOUNDARIES[name])


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("surroundings", "import sys\ndef main(*argv): return argv\nif __name__ == '__main__': main(*sys.argv[1:])"),
        ("surroundings", "import os\nos.getpid()"),
        ("connections", "from dbsec.pg import connect\nconnect(None)"),
        ("connections", "import socket\nsocket.socket().connect(('127.0.0.1', 1))"),
        ("processes", "from dbsec import process\nprocess.run(['true'])"),
        ("processes", "import os\nos.kill(os.getpid(), 9)"),
    ],
)
def test_what_is_allowed_is_no_crossing(name, source):
    assert not crossed(source, BOUNDARIES[name])
