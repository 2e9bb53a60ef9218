"""A verbatim excerpt, such as lines of a log.

Shape: ``{"type": "text", "title", "text"}``.
"""

from __future__ import annotations

from markupsafe import Markup

from dbsec.report import gfm
from dbsec.report.exhibits import Exhibit, Shape
from dbsec.report.markup import el


def _html(shape: Shape) -> Markup:
    lines = str(shape["text"]).strip("\n")
    return el("pre", el("code", lines), class_="excerpt")


def _markdown(shape: Shape) -> str:
    return gfm.fence(str(shape["text"]).strip("\n"), "text")


EXHIBIT = Exhibit(_html, _markdown)
