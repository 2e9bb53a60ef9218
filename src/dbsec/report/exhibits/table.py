"""A table.

Shape: ``{"type": "table", "title", "columns": [text], "rows": [[JSON scalar]]}``. A column of numbers is aligned right.
"""

from __future__ import annotations

from markupsafe import Markup

from dbsec.report import gfm, markup
from dbsec.report.exhibits import Exhibit, Shape, title


def _html(shape: Shape) -> Markup:
    return markup.table(list(shape["columns"]), [list(row) for row in shape["rows"]], label=title(shape))


def _markdown(shape: Shape) -> str:
    return gfm.table(list(shape["columns"]), [list(row) for row in shape["rows"]])


EXHIBIT = Exhibit(_html, _markdown)
