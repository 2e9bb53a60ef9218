"""Write docs/api.txt: every public name with its signature, so that a change of the library's face shows in a diff.

Public is what a module's ``__all__`` names. ``python scripts/api.py`` writes the file, ``--check`` compares it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_origin

import dbsec

TARGET = Path(__file__).resolve().parents[1] / "docs" / "api.txt"
_HEAD = "# docs/api.txt: made by 'python scripts/api.py' from __all__; a public name that goes or changes shows here\n"


class _Shown:
    """Prints as the text that it is given."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def public_modules() -> list[str]:
    """Name the modules that declare ``__all__``, without importing them."""
    root = Path(dbsec.__path__[0])
    return sorted(_name(path, root) for path in root.rglob("*.py") if _declares_all(path))


def lines() -> Iterator[str]:
    """Yield a line for each public name, and for each public method of a class."""
    for name in public_modules():
        module = importlib.import_module(name)
        for public in sorted(module.__all__):
            value = getattr(module, public)
            yield f"{name}.{public}{signature(value)}"
            for method, function in sorted(methods(value).items()):
                yield f"{name}.{public}.{method}{signature(function)}"


def methods(value: Any) -> dict[str, Any]:
    """Return what a class itself defines for its callers: functions and properties by name."""
    if not inspect.isclass(value):
        return {}
    plain = {name: inspect.unwrap(getattr(v, "__func__", v)) for name, v in vars(value).items() if name[0] != "_"}
    return {name: v for name, v in plain.items() if inspect.isfunction(v) or isinstance(v, property)}


def signature(value: Any) -> str:
    """Write how a function or class is called; `` = value`` for what is neither."""
    if inspect.isclass(value) and issubclass(value, Enum):
        return f" = {' | '.join(member.name for member in value)}"  # how one is called differs between Pythons
    if isinstance(value, property):
        return f" -> {_type(inspect.signature(value.fget).return_annotation)!r}" if value.fget else ""
    if isinstance(value, dict):
        return f" = {sorted(value)}"  # functions in it have addresses
    if not callable(value) or get_origin(value) is not None:
        return f" = {value!r}"  # a type alias can be called too
    if getattr(value, "_is_protocol", False):
        return ""
    found = inspect.signature(value)
    shown = [p.replace(annotation=_type(p.annotation), default=_default(p.default)) for p in found.parameters.values()]
    returns = inspect.Signature.empty if inspect.isclass(value) else _type(found.return_annotation)
    return str(inspect.Signature(shown, return_annotation=returns))


def _type(annotation: Any) -> Any:
    """Show annotations as they are written; those that a library computed change with its version."""
    return _Shown(annotation) if isinstance(annotation, str) else inspect.Parameter.empty


def _default(value: Any) -> Any:
    plain = value is inspect.Parameter.empty or value is None or type(value) in (str, int, float, bool, tuple)
    return value if plain else _Shown(str(value) if isinstance(value, Enum) else "...")


def _name(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _declares_all(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" for node in body)


def main() -> int:
    text = _HEAD + "".join(f"{line}\n" for line in lines())
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.exists() and TARGET.read_text() == text else 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
