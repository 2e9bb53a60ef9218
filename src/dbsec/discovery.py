"""Finds what a folder holds: one file adds a chapter, a command, a format or a check, and edits no other."""

from __future__ import annotations

import importlib
import pkgutil
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
