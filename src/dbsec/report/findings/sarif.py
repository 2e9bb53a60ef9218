"""Findings as SARIF 2.1.0: for code scanning and the viewers of editors.

Source: OASIS "Static Analysis Results Interchange Format (SARIF) Version 2.1.0", with errata 01.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from dbsec import __version__
from dbsec.findings import Finding
from dbsec.report.findings import Format, NotRead, Results, Words
from dbsec.waivers import Waiver

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "%SRCROOT%"

Json = dict[str, Any]


def render(results: Results) -> str:
    """Write one run: the rules that were hit with their words, a result a finding, and what was not read.

    A waived finding is a result with a suppression. Paths are relative to where the command ran, which is not told.
    """
    shown = [*((finding, None) for finding in results.findings), *results.waived]
    codes = sorted({finding.code for finding, _ in shown})
    seen: Counter[str] = Counter()
    run = {
        "tool": {
            "driver": {
                "name": "dbsec",
                "semanticVersion": __version__,
                "rules": [_rule(code, results, shown) for code in codes],
            }
        },
        "automationDetails": {"id": f"dbsec {results.command}/"},
        "originalUriBaseIds": {_ROOT: {"description": {"text": "The folder in which the command ran."}}},
        "invocations": [
            {
                "executionSuccessful": not results.unread,
                "toolExecutionNotifications": [_notification(unread) for unread in results.unread],
            }
        ],
        "results": [_result(finding, waiver, codes, seen) for finding, waiver in shown],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _rule(code: str, results: Results, shown: list[tuple[Finding, Waiver | None]]) -> Json:
    first = next(finding for finding, _ in shown if finding.code == code)
    words = results.words.get(code) or Words(code, first.name, first.name, first.severity)
    help_ = "\n\n".join(part for part in (words.effect, words.instead) if part)
    told: Json = {
        "id": code,
        "name": words.name,
        "shortDescription": {"text": words.title},
        "defaultConfiguration": {"level": str(words.severity)},
        "properties": {"tags": list(words.tags)},
    }
    if help_:
        told["fullDescription"] = {"text": words.effect or help_}
        told["help"] = {"text": help_}
    if words.page:
        told["helpUri"] = words.page
    return told


def _result(finding: Finding, waiver: Waiver | None, codes: list[str], seen: Counter[str]) -> Json:
    seen[finding.key] += 1
    result: Json = {
        "ruleId": finding.code,
        "ruleIndex": codes.index(finding.code),
        "level": str(finding.severity),
        "message": _message(finding),
        "partialFingerprints": {"dbsecFinding/v1": f"{finding.key}:{seen[finding.key]}"},
        "properties": {"object": finding.target, "hazard": finding.where.get("hazard", "")},
    }
    if file := str(finding.where.get("file", "")):
        location = _location(file, int(finding.where.get("line", 0)), str(finding.where.get("statement", "")))
        result["locations"] = [location]
    if waiver is not None:
        kind = "inSource" if "line" in waiver.where else "external"
        text = f"{waiver.reason} (until {waiver.expiry})"
        result["suppressions"] = [{"kind": kind, "status": "accepted", "justification": text}]
    return result


def _message(finding: Finding) -> Json:
    if not finding.fix:
        return {"text": finding.message}
    fence = "```" if "```" not in finding.fix else "~~~~"
    return {
        "text": f"{finding.message}\n\nInstead:\n{finding.fix}",
        "markdown": f"{finding.message}\n\nInstead:\n\n{fence}sql\n{finding.fix.strip()}\n{fence}",
    }


def _location(file: str, line: int, statement: str = "") -> Json:
    physical: Json = {"artifactLocation": _artifact(file)}
    if line > 0:
        physical["region"] = {"startLine": line, **({"snippet": {"text": statement}} if statement else {})}
    return {"physicalLocation": physical}


def _artifact(file: str) -> Json:
    if file == "-":
        return {"uri": "stdin", "description": {"text": "Standard input."}}
    if PurePosixPath(file).is_absolute():
        return {"uri": f"file://{quote(file)}"}
    return {"uri": quote(file.removeprefix("./")), "uriBaseId": _ROOT}


def _notification(unread: NotRead) -> Json:
    told: Json = {"level": "error", "message": {"text": unread.reason}}
    if unread.file:
        told["locations"] = [_location(unread.file, unread.line)]
    return told


FORMAT = Format(render)
