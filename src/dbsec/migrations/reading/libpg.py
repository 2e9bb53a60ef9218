"""The door to libpg_query: pglast's extension module without its classes for trees, which take 25 ms to import."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_UNUSED = ("pglast.enums", "pglast.ast")  # by the functions that give JSON and tokens


@cache
def parser() -> Any:
    """Import ``pglast.parser``. Errors: ``ImportError`` where pglast is not installed."""
    if "pglast" not in sys.modules and (package := find_spec("pglast")) is not None:
        for name in _UNUSED:
            if (spec := PathFinder.find_spec(name, package.submodule_search_locations)) is not None:
                sys.modules[name] = _on_demand(spec)
    return import_module("pglast.parser")


def _on_demand(spec: ModuleSpec) -> ModuleType:
    """Make a module that runs its code when the first of its names is asked for."""
    module = module_from_spec(spec)

    def run(name: str) -> Any:
        del module.__dict__["__getattr__"]
        assert spec.loader is not None
        spec.loader.exec_module(module)
        return getattr(module, name)

    module.__dict__["__getattr__"] = run
    return module
