"""Write the steps of a change that the running release survives: expand, backfill, contract, each with its way back."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dbsec import discovery
from dbsec.errors import UsageError
from dbsec.migrations.expand_contract import kinds

if TYPE_CHECKING:
    from dbsec.migrations.expand_contract.ask import Ask
    from dbsec.migrations.expand_contract.place import Place
    from dbsec.migrations.expand_contract.script import Change
    from dbsec.migrations.schema.model import Schema

__all__ = ["names", "planned", "problems"]


def names() -> list[str]:
    """Name the kinds of change as a command says them: ``rename-column``."""
    return [name.replace("_", "-") for name in discovery.names_in(kinds)]


def planned(kind: str, place: Place, ask: Ask) -> Change:
    """Write a change as text. Errors: ``UsageError`` for a kind that is none, and where the table does not allow it."""
    if kind not in names():
        raise UsageError(f"'{kind}' is no kind of change", hint=f"one of {', '.join(names())}")
    module = importlib.import_module(f"{kinds.__name__}.{kind.replace('-', '_')}")
    change: Change = module.plan(place, ask)
    return change


def problems(files: Mapping[Path, str], schema: Schema, *, major: int) -> list[str]:
    """Lint the files as one release on ``schema``, which stays as it is; returns the errors."""
    from dbsec.findings import Severity
    from dbsec.migrations.linter import Options, lint
    from dbsec.migrations.script import Phase, Script

    scripts = [
        Script(str(path), text, phase=Phase(path.name.split("_")[1]))
        for path, text in files.items()
        if path.suffix == ".sql" and not path.name.endswith(".down.sql")
    ]
    result = lint(scripts, schema=copy.deepcopy(schema), options=Options(major=major))
    found = [
        f"{one.where['file']}:{one.where['line']}: {one.code} {one.message}"
        for one in result.findings
        if one.severity is Severity.ERROR
    ]
    return found + [str(one) for one in result.unread]
