"""Findings for other programs: the envelope of every ``--format json``."""

from __future__ import annotations

import json
from dataclasses import asdict

from dbsec import __version__
from dbsec.report.findings import Format, Results


def render(results: Results) -> str:
    """Shape: ``{"dbsec", "format", "command", "findings": [Finding.to_json()], COUNT: N, "unread": [NotRead]}``."""
    body = {
        "dbsec": __version__,
        "format": 1,
        "command": results.command,
        "findings": [finding.to_json() for finding in results.findings],
        **results.counts,
        "unread": [asdict(unread) for unread in results.unread],
    }
    return _indented(body) + "\n"


def _indented(body: object) -> str:
    """Thousands of findings take Python's own encoder half as long as to find them."""
    try:
        from msgspec.json import encode, format
    except ImportError:  # of the extra [migrations]
        return json.dumps(body, indent=2, ensure_ascii=False, default=str)
    return format(encode(body, enc_hook=str), indent=2).decode()


FORMAT = Format(render)
