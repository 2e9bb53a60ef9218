"""Reads plain parameters directly: typer sets up pydantic for each of them, which is half the time of a lint."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin

import typer

_Read = Callable[[str], Any]
_CHECKED = ("exists", "resolve_path", "writable", "allow_dash", "parser", "click_type")


class _Plain:
    """Stands in for what typer makes of a parameter's type."""

    def __init__(self, read: _Read) -> None:
        self._read = read

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Read one value, or each of several. Errors: ``typer.BadParameter``."""
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        try:
            return [self._read(one) for one in value] if several else self._read(value)
        except ValueError as exc:
            raise typer.BadParameter(str(exc), ctx=ctx, param=param) from exc


def lighten(command: Any) -> None:
    """Let the parameters of a command and of those below it be read directly where their type is plain.

    Plain are text, flags, paths that typer is not to look at, choices, and lists of these; another version of typer,
    which does not ask its parameters for a reader, is left as it is.
    """
    all_params = command.get_params

    command.get_params = lambda ctx: lightened(all_params(ctx))
    for inner in getattr(command, "commands", {}).values():
        lighten(inner)


def lightened(params: list[Any]) -> list[Any]:
    """Return the parameters, those of a plain type with our reader."""
    for param in params:
        descriptor = getattr(param, "type_descriptor", None)
        if descriptor is None or not hasattr(param, "get_runtime_param"):
            continue
        if (read := _reader(descriptor.annotation, descriptor.parameter_info)) is not None:
            param.get_runtime_param = partial(_Plain, read)
    return params


def _reader(annotation: Any, info: Any) -> _Read | None:
    if get_origin(annotation) is list:
        annotation = get_args(annotation)[0]
    if any(getattr(info, name, None) for name in _CHECKED) or not isinstance(annotation, type):
        return None
    if annotation in (str, bool):
        return annotation
    if issubclass(annotation, Path):
        return annotation
    return _choice(annotation) if issubclass(annotation, Enum) else None


def _choice(of: type[Enum]) -> _Read:
    def read(value: Any) -> Enum:
        for member in of:
            if value is member or value == member.value:
                return member
        raise ValueError(f"'{value}' is not one of {', '.join(repr(member.value) for member in of)}.")

    return read
