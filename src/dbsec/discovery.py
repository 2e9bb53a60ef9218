"""Finds what a folder holds: one file adds a chapter, a command, a format or a check, and edits no other."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


def names_in(package: ModuleType) -> list[str]:
    """Name the modules of a package without importing them; names that begin with ``_`` are left out."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


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
