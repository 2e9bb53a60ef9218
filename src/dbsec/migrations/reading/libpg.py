"""The door to libpg_query: pglast's extension module without its classes for trees, which take 25 ms to import."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any

from dbsec import discovery

_UNUSED = ("pglast.enums", "pglast.ast")  # by the functions that give JSON and tokens


@cache
def parser() -> Any:
    """Import ``pglast.parser``. Errors: ``ImportError`` where pglast is not installed."""
    if "pglast" not in sys.modules and (package := find_spec("pglast")) is not None:
        for name in _UNUSED:
            if (spec := PathFinder.find_spec(name, package.submodule_search_locations)) is not None:
                sys.modules[name] = discovery.on_demand(spec)
    return import_module("pglast.parser")
