"""Findings as GitLab's code quality report (``artifacts:reports:codequality``)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

from dbsec.findings import Severity
from dbsec.report.findings import Format, Results

_SEVERITY = {Severity.ERROR: "critical", Severity.WARNING: "minor"}


def render(results: Results) -> str:
    """Shape: ``[{"description", "check_name", "fingerprint", "severity", "location": {"path", "lines": {"begin"}}}]``.

    Fingerprints are unique, and stay when lines move. What was not read is an entry of severity ``blocker``.
    """
    seen: Counter[str] = Counter()
    entries = []
    for finding in results.findings:
        seen[finding.key] += 1
        print_ = finding.key if seen[finding.key] == 1 else f"{finding.key}-{seen[finding.key]}"
        name, severity = f"{finding.code} {finding.name}", _SEVERITY[finding.severity]
        entries.append(_entry(finding.message, name, print_, severity, finding.where))
    for unread in results.unread:
        print_ = hashlib.sha256(f"{unread.file}\0{unread.reason}".encode()).hexdigest()[:16]
        place = {"file": unread.file, "line": unread.line}
        entries.append(_entry(f"not read: {unread.reason}", "not-read", print_, "blocker", place))
    return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"


def _entry(description: str, name: str, fingerprint: str, severity: str, where: Any) -> dict[str, Any]:
    path = str(where.get("file", "")).removeprefix("./")
    return {
        "description": description,
        "check_name": name,
        "fingerprint": fingerprint,
        "severity": severity,
        "location": {"path": path, "lines": {"begin": int(where.get("line", 0)) or 1}},
    }


FORMAT = Format(render)
