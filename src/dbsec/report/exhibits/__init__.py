"""What an evidence line asks the report to draw: one file per type, found by name; its ``EXHIBIT`` draws it.

The shape of each stands at the top of its file: ``table``, ``text``, ``latency``, ``timeline``, ``graph``. Each has
``type`` and ``title``. An unknown type, or one with other keys than its file expects, is shown as a table of its keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from markupsafe import Markup

from dbsec import discovery
from dbsec.report import gfm, markup

Shape = Mapping[str, Any]
_MISSHAPEN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True, slots=True)
class Exhibit:
    """How one type is drawn in HTML and in Markdown; either may raise on a wrong shape, which is then shown plain."""

    html: Callable[[Shape], Markup]
    markdown: Callable[[Shape], str]


@cache
def known() -> dict[str, Exhibit]:
    """Return the exhibits of this folder by type."""
    import dbsec.report.exhibits as folder

    return discovery.constants_in(folder, "EXHIBIT")


def html(shape: Shape) -> Markup:
    """Draw an exhibit; never raises for its shape."""
    drawn = known().get(str(shape.get("type")))
    try:
        return drawn.html(shape) if drawn else _plain_html(shape)
    except _MISSHAPEN:
        return _plain_html(shape)


def markdown(shape: Shape) -> str:
    """Write an exhibit; never raises for its shape."""
    drawn = known().get(str(shape.get("type")))
    try:
        return drawn.markdown(shape) if drawn else _plain_markdown(shape)
    except _MISSHAPEN:
        return _plain_markdown(shape)


def title(shape: Shape) -> str:
    """Name an exhibit: its title, else its type."""
    return str(shape.get("title") or shape.get("type") or "Exhibit")


def _keys(shape: Shape) -> list[tuple[str, str]]:
    shown = ((k, v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str)) for k, v in shape.items())
    return [(str(k), v) for k, v in shown if k != "title"]


def _plain_html(shape: Shape) -> Markup:
    return markup.table(("key", "value"), _keys(shape), label=title(shape))


def _plain_markdown(shape: Shape) -> str:
    return gfm.table(("key", "value"), _keys(shape))
