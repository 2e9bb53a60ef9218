"""``dbsec migrate lint`` in its plain form, read without typer, whose import and set-up take longer than many files.

What is not plain is left to typer, mistakes too: an option that is not here, or twice, a flag, stdin, a value that
begins with a dash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dbsec import discovery
from dbsec.findings import Severity
from dbsec.report import findings


def _form(value: str) -> str:
    if value not in discovery.names_in(findings):
        raise ValueError(value)
    return value


OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "--baseline": ("baseline", Path),
    "--changed-since": ("changed_since", str),
    "--fail-on": ("fail_on", Severity),
    "--format": ("form", _form),
    "--output": ("output", Path),
    "--pg-version": ("pg_version", str),
    "--schema": ("schema", Path),
    "--stats": ("stats", Path),
}
"""Option -> the field of ``linting.Asked``, and what makes its value of the text."""


def read(argv: Sequence[str]) -> dict[str, Any] | None:
    """Read the fields of ``linting.Asked`` from what stands behind ``lint``; None where it is not plain."""
    paths: list[str] = []
    given: dict[str, Any] = {}
    rest = iter(argv)
    for word in rest:
        if not word.startswith("-"):
            paths.append(word)
            continue
        name, equals, value = word.partition("=")
        value = value if equals else next(rest, "")
        if name not in OPTIONS or not value or value.startswith("-"):
            return None
        field, made = OPTIONS[name]
        if field in given:
            return None
        try:
            given[field] = made(value)
        except ValueError:
            return None
    return {"paths": tuple(paths), **given} if paths and all(paths) else None
