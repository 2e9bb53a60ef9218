"""The words of one code, wherever in this pillar it is found."""

from __future__ import annotations

from dataclasses import dataclass

from dbsec.findings import Severity


@dataclass(frozen=True, slots=True)
class Check:
    """``name`` completes "allow ..."; ``title`` is what is wrong where it is found; ``refs`` are CWE, CVE or RFC."""

    code: str
    name: str
    title: str
    severity: Severity
    refs: tuple[str, ...] = ()
