"""The few things that the pictures share: a frame, lines with gaps, ticks, and labels that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from dbsec.report.markup import el, scrolling

Point = tuple[float, float | None]


def picture(width: float, height: float, *body: Markup, text: str) -> Markup:
    """Frame a picture that shrinks a little with its column and then scrolls; ``text`` is what a screen reader says."""
    drawing = el(
        "svg",
        *body,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_label=text,
        style=f"min-width:{min(width, max(560.0, width * 0.72)):.0f}px;max-width:{width * 1.1:.0f}px",
    )
    return scrolling(drawing, label=text.partition(".")[0])


def text(x: float, y: float, words: object, *, class_: str = "", anchor: str | None = None) -> Markup:
    """Set words at a baseline; ``anchor`` is start, middle or end."""
    return el("text", words, x=float(x), y=float(y), class_=class_ or None, text_anchor=anchor)


def polyline(points: Iterable[Point]) -> str:
    """Return the path data of a line; a point without y leaves a gap, a point alone is a dot."""
    data: list[str] = []
    pen_down = False
    for x, y in points:
        if y is not None:
            data.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}" + ("" if pen_down else "h.1"))
        pen_down = y is not None
    return "".join(data)


def width_of(words: str, size: float = 12) -> float:
    """Estimate how wide text is in pixels; generous, since the reader's font is not known."""
    return len(words) * size * 0.61


def clipped(words: str, limit: int) -> str:
    """Shorten text to ``limit`` characters; the whole of it stands in the table beside the picture."""
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"


def rows_for(spans: Sequence[tuple[float, float]], gap: float = 8) -> list[int]:
    """Give each span (start, end), sorted by start, the first row where it overlaps no earlier one."""
    ends: list[float] = []
    rows: list[int] = []
    for start, end in spans:
        row = next((r for r, taken in enumerate(ends) if start >= taken + gap), len(ends))
        ends[row : row + 1] = [end]
        rows.append(row)
    return rows


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart until ``gap`` lies between neighbours, as little as that needs, within low and high."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    floor = low
    for i in order:
        placed[i] = max(wanted[i], floor)
        floor = placed[i] + gap
    ceiling = high
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed


def ticks(limit: float, about: int = 6) -> list[float]:
    """Return 0 and round steps up to ``limit``: 1, 2 or 5 times a power of ten."""
    if not limit > 0:
        return [0.0]
    raw = limit / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    return [step * i for i in range(int(limit / step + 1e-9) + 1)]


def clock(seconds: float) -> str:
    """Write seconds since the start as ``m:ss``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def milliseconds(value: float) -> str:
    """Write a latency with three digits at most: ``4.2 ms``, ``142 ms``, ``1.3 s``."""
    if value >= 1000:
        return f"{value / 1000:.2g} s" if value < 10_000 else f"{value / 1000:.0f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
