"""What a report is written as: one file per format, found by name; its ``FORMAT`` renders the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dbsec.report.model import Report


@dataclass(frozen=True, slots=True)
class Format:
    """``file`` is the name in the report's folder."""

    file: str
    render: Callable[[Report], str]
