"""Where commands print: results to stdout (text, or one JSON envelope), all else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from dbsec import __version__
from dbsec.progress import Lines, Progress

ENVELOPE = 1


class Format(StrEnum):
    """What ``--format`` takes."""

    TEXT = "text"
    JSON = "json"


def envelope(command: str, **body: Any) -> None:
    """Print ``{"dbsec", "format", "command", ...}``; ``body`` is ``findings=`` or ``result=``."""
    print(json.dumps({"dbsec": __version__, "format": ENVELOPE, "command": command, **body}, indent=2, default=str))


@contextmanager
def progress() -> Iterator[Progress]:
    """Give long work its progress: a live line on a terminal, plain lines elsewhere; both on stderr."""
    if not sys.stderr.isatty():
        yield Lines(sys.stderr)
        return
    from dbsec.cli.terminal import Live

    with Live() as live:
        yield live
