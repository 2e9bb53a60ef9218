"""What happened when, in lanes.

Shape: ``{"type": "timeline", "title", "lanes": [text], "events": [{"at_s": seconds since the start, "lane", "label",
"kind"}]}``. ``kind``: ``ok``, ``bad``, ``warn``, else plain; a lane that only an event names is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dbsec.report import gfm, markup, svg
from dbsec.report.exhibits import Exhibit, Shape, title
from dbsec.report.markup import el

_WIDTH, _RIGHT, _TOP, _ROW, _PAD = 880.0, 24.0, 12.0, 24.0, 10.0
_KINDS = ("ok", "bad", "warn")


@dataclass(frozen=True, slots=True)
class _Event:
    at_s: float
    lane: str
    label: str
    kind: str


def _events(shape: Shape) -> list[_Event]:
    found = (_Event(float(e["at_s"]), str(e["lane"]), str(e["label"]), str(e.get("kind", ""))) for e in shape["events"])
    return sorted(found, key=lambda e: e.at_s)


def _html(shape: Shape) -> Markup:
    events = _events(shape)
    lanes = list(dict.fromkeys([*map(str, shape.get("lanes", ())), *(e.lane for e in events)]))
    left = min(200.0, max((svg.width_of(svg.clipped(lane, 26)) for lane in lanes), default=0.0) + 24)
    end = max([e.at_s for e in events], default=0.0) or 1.0
    scale = (_WIDTH - left - _RIGHT) / end
    y, body = _TOP, list[Markup]()
    for lane in lanes:
        drawn, height = _lane(lane, [e for e in events if e.lane == lane], left, scale, y)
        body.append(drawn)
        y += height
    body.insert(0, _axis(left, scale, end, y))
    said = f"{title(shape)}. {len(events)} events in {len(lanes)} lanes over {end:.1f} seconds; the table lists them."
    rows = [(f"{e.at_s:.1f}", e.lane, e.label, e.kind) for e in events]
    listed = markup.table(("second", "lane", "event", "kind"), rows, label=f"{title(shape)}, as a table")
    return svg.picture(_WIDTH, y + 26, *body, text=said) + el(
        "details", el("summary", "As a table"), listed, class_="twin"
    )


def _lane(name: str, events: Sequence[_Event], left: float, scale: float, y: float) -> tuple[Markup, float]:
    labels = [_label_span(e, left, scale) for e in events]
    order = sorted(range(len(events)), key=lambda i: labels[i][0])
    rows = dict(zip(order, svg.rows_for([labels[i] for i in order]), strict=True))
    height = _ROW * (1 + max(rows.values(), default=0)) + 2 * _PAD
    first = y + _PAD + _ROW / 2
    parts = [
        el("line", x1=0.0, x2=_WIDTH, y1=y, y2=y, class_="rule"),
        svg.text(0, first + 4, svg.clipped(name, 26), class_="lane"),
    ]
    for i, event in enumerate(events):
        parts.append(_mark(event, left + event.at_s * scale, first + rows[i] * _ROW, labels[i][0]))
    return el("g", *parts), height


def _label_span(event: _Event, left: float, scale: float) -> tuple[float, float]:
    """Return where the label begins and ends with its mark: right of the mark, or left of it near the edge."""
    x, wide = left + event.at_s * scale, svg.width_of(svg.clipped(event.label, 44)) + 12
    return (x - 6, x + wide) if x + wide <= _WIDTH else (x - wide, x + 6)


def _mark(event: _Event, x: float, y: float, start: float) -> Markup:
    kind = event.kind if event.kind in _KINDS else "plain"
    words = svg.clipped(event.label, 44)
    on_left = start < x - 6.5
    return el(
        "g",
        el("rect", x=x - 4, y=y - 4, width=8, height=8, class_=f"mark {kind}")
        if kind == "bad"
        else el("circle", cx=x, cy=y, r=4.5, class_=f"mark {kind}"),
        svg.text(x - 10 if on_left else x + 10, y + 4, words, anchor="end" if on_left else None),
    )


def _axis(left: float, scale: float, end: float, bottom: float) -> Markup:
    parts = [el("line", x1=0.0, x2=_WIDTH, y1=bottom, y2=bottom, class_="rule")]
    for tick in svg.ticks(end, 8):
        x = left + tick * scale
        parts.append(el("line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="grid"))
        parts.append(svg.text(x, bottom + 18, f"{tick:g} s", class_="tick", anchor="middle"))
    return el("g", *parts)


def _markdown(shape: Shape) -> str:
    return gfm.table(
        ("second", "lane", "event", "kind"), [(f"{e.at_s:.1f}", e.lane, e.label, e.kind) for e in _events(shape)]
    )


EXHIBIT = Exhibit(_html, _markdown)
