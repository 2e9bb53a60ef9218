"""Elements of HTML and SVG whose text and attributes are always escaped; nothing else in the report makes a tag."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

# A number, perhaps with a short unit: 12,804 or 4.2 ms or 99.9 %.
_MEASURE = re.compile(r"-?[\d,]*\.?\d+(e[-+]?\d+)?( ?[a-zA-Zµ%/]{1,4})?")
Attribute = str | int | float | bool | None


def el(tag: str, *children: object, **attributes: Attribute) -> Markup:
    """Build one element: ``class_`` is class, ``stroke_width`` is stroke-width, None and False are left out.

    ``tag`` and the attribute names are literals of this package, never evidence.
    """
    words = [Markup(tag)]  # noqa: S704 - a literal, as said above
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        label = "viewBox" if name == "viewBox" else name.rstrip("_").replace("_", "-")
        words.append(Markup("{}").format(label) if value is True else Markup('{}="{}"').format(label, number(value)))
    opening = Markup(" ").join(words)
    if not children and tag in ("path", "rect", "line", "circle", "polygon"):
        return Markup("<{}/>").format(opening)
    return Markup("<{}>{}</{}>").format(opening, Markup("").join(escape(c) for c in children), words[0])


def number(value: object) -> str:
    """Write a coordinate to a tenth of a pixel and without a useless ``.0``; other values as they are."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def table(columns: Sequence[object], rows: Iterable[Sequence[object]], *, label: str) -> Markup:
    """Build a table that scrolls inside its own box; columns of numbers, with or without a unit, are aligned right."""
    body = [list(row) for row in rows]
    right = [_numeric([row[i] for row in body if i < len(row)]) for i in range(len(columns))]
    head = el("tr", *(el("th", c, scope="col", class_="n" if r else None) for c, r in zip(columns, right, strict=True)))
    lines = [el("tr", *(_cell(v, i < len(right) and right[i]) for i, v in enumerate(row))) for row in body]
    return scrolling(el("table", el("thead", head), el("tbody", *lines), class_="data"), label=label)


def scrolling(inner: Markup, *, label: str) -> Markup:
    """Wrap what may be wide: the box scrolls, not the page, and the keyboard reaches it."""
    return el("div", inner, class_="scroll", role="region", aria_label=label, tabindex="0")


def _cell(value: object, right: bool) -> Markup:
    return el("td", shown(value), class_="n" if right else None)


def shown(value: object) -> str:
    """Write a cell: nothing for None, yes and no, thousands separated."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _numeric(values: Sequence[object]) -> bool:
    known = [v for v in values if v not in (None, "")]
    return bool(known) and all(not isinstance(v, bool) and _MEASURE.fullmatch(shown(v)) for v in known)
