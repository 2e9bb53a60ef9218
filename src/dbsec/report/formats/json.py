"""``report.json``: the model in the envelope of every ``--format json``, for other programs."""

from __future__ import annotations

import json
from dataclasses import asdict

from dbsec import __version__
from dbsec.report import verdict
from dbsec.report.formats import Format
from dbsec.report.model import Report


def render(report: Report) -> str:
    """Shape: ``result`` holds ``verdict``, ``headline`` and the fields of ``dbsec.report.model.Report`` by name."""
    result = {"verdict": verdict.overall(report), "headline": verdict.headline(report), **asdict(report)}
    envelope = {"dbsec": __version__, "format": 1, "command": "report build", "result": result}
    return json.dumps(envelope, indent=2, ensure_ascii=False, default=str) + "\n"


FORMAT = Format("report.json", render)
