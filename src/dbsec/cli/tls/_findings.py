"""How commands of ``dbsec tls`` tell findings, and what they make of them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from dbsec.cli import exits
from dbsec.errors import ConfigError

if TYPE_CHECKING:
    from dbsec.report.findings import Results, Words
    from dbsec.tls.check import Check


class Form(StrEnum):
    """What ``--format`` takes."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"


def tell(results: Results, form: str) -> None:
    """Print findings; in colours where a person looks."""
    text = importlib.import_module(f"dbsec.report.findings.{form}").FORMAT.render(results)
    if form == Form.TEXT and sys.stdout.isatty():
        from dbsec.cli import terminal

        terminal.show_findings(text)
    else:
        sys.stdout.write(text)


def words(*known: Mapping[str, Check]) -> dict[str, Words]:
    """Return the words of checks by code."""
    from dbsec.report.findings import Words

    checks: Iterable[Check] = (check for some in known for check in some.values())
    return {one.code: Words(one.code, one.name, one.title, one.severity, tags=one.refs) for one in checks}


def exit_code(results: Results) -> int:
    """Return 1 where there is an error among the findings; warnings alone are clean."""
    from dbsec.findings import Severity

    return exits.FINDINGS if results.number(Severity.ERROR) else exits.CLEAN


def pem(path: Path) -> bytes:
    """Read a file that was named. Errors: ``ConfigError``."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"cannot read '{path}': {exc.strerror}") from exc
