"""Finds what a folder holds: one file adds a chapter, a command, a format or a check, and edits no other."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, all_suffixes
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_SUFFIXES = frozenset(all_suffixes())


def names_in(package: ModuleType) -> list[str]:
    """Name the modules of a package without importing them; names that begin with ``_`` are left out."""
    inside = [entry for folder in package.__path__ for entry in os.scandir(folder) if not entry.name.startswith("_")]
    names = {entry.name.partition(".")[0] for entry in inside if _is_module(entry)}
    return sorted(names)


def _is_module(entry: os.DirEntry[str]) -> bool:
    """As pkgutil tells it, whose import of ``inspect`` takes longer than to lint a file."""
    _, dot, suffix = entry.name.partition(".")
    return dot + suffix in _SUFFIXES if dot else os.path.exists(f"{entry.path}/__init__.py")  # noqa: PTH110


def constants_in(package: ModuleType, constant: str) -> dict[str, Any]:
    """Import each module of a package that defines ``constant``; returns module name -> its value."""
    found: dict[str, Any] = {}
    for name in names_in(package):
        module = importlib.import_module(f"{package.__name__}.{name}")
        if hasattr(module, constant):
            found[name] = getattr(module, constant)
    return found


def defer(*names: str) -> None:
    """Let modules that others import, and mostly never use, wait for that use."""
    for name in names:
        if name not in sys.modules and (spec := find_spec(name)) is not None:
            sys.modules[name] = on_demand(spec)


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Let imports in the block do without a module that they take where it is there."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment] # so says the import system: not to be found
    try:
        yield
    finally:
        del sys.modules[name]


def on_demand(spec: ModuleSpec) -> ModuleType:
    """Make a module that runs its code when the first of its names is asked for."""
    module = module_from_spec(spec)

    def run(name: str) -> Any:
        del module.__dict__["__getattr__"]
        assert spec.loader is not None
        spec.loader.exec_module(module)
        return getattr(module, name)

    module.__dict__["__getattr__"] = run
    return module
