"""Latency under load: p50 and p99 over time with the phases shaded, the objective, throughput and every failed request.

Shape: ``{"type": "latency", "title", "bucket_s": seconds per bucket, "t0": rfc3339 or "", "requests": [int], "failed":
[int], "p50_ms", "p99_ms", "max_ms": [float or null, where nothing was served], "bands": [{"label", "from_s", "to_s",
"kind"}], "slo_p99_ms": float or null}``. Bucket ``i`` covers ``i * bucket_s`` and on; all lists have one length.
``kind`` of a band: ``before``, ``apply``, ``after``, else neutral. Its label is a chapter, or ``chapter: phase``;
neighbours of one chapter are named once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from markupsafe import Markup

from dbsec.report import gfm, markup, svg
from dbsec.report.exhibits import Exhibit, Shape, title
from dbsec.report.exhibits._latency_series import Band, Series, bands_of, fold, read, runs_of
from dbsec.report.markup import el

_WIDTH, _LEFT, _RIGHT, _PLOT, _LOAD = 920.0, 52.0, 104.0, 230.0, 44.0
_COLUMNS = (
    "phase, in whole buckets",
    "seconds",
    "requests",
    "failed",
    "p50, median",
    "p99, median",
    "p99, worst",
    "slowest",
)
_KINDS = ("before", "apply", "after")
_MANY_ROWS = 12


@dataclass(frozen=True, slots=True)
class _Axes:
    """Where a second and a latency lie: seconds from left to right, milliseconds upwards on a logarithmic scale."""

    seconds: float
    low: float
    high: float
    top: float

    def x(self, second: float) -> float:
        return _LEFT + second / self.seconds * (_WIDTH - _LEFT - _RIGHT)

    def y(self, ms: float) -> float:
        share = math.log(max(ms, self.low) / self.low) / math.log(self.high / self.low)
        return self.top + _PLOT * (1 - share)

    @property
    def bottom(self) -> float:
        return self.top + _PLOT + _LOAD + 22


def _rows(shape: Shape) -> list[tuple[object, ...]]:
    series = read(shape)
    rows: list[tuple[object, ...]] = []
    for band in [*bands_of(shape), Band("whole run", 0.0, series.seconds, "")]:
        part = series.between(band.start, band.end)
        times = (fold(median, part.p50), fold(median, part.p99), fold(max, part.p99), fold(max, part.slowest))
        shown = [svg.milliseconds(t) if t is not None else "" for t in times]
        rows.append((band.name, f"{band.end - band.start:.1f}", sum(part.requests), sum(part.failed), *shown))
    return rows


def _html(shape: Shape) -> Markup:
    series, bands = read(shape), bands_of(shape)
    slo = None if shape.get("slo_p99_ms") is None else float(shape["slo_p99_ms"])
    runs = runs_of(bands)
    axes = _axes(series, slo)
    rows = svg.rows_for([(axes.x(r.start), axes.x(r.start) + svg.width_of(r.label, 11.5)) for r in runs], gap=10)
    axes = replace(axes, top=16.0 + 18 * (1 + max(rows, default=-1)) + (18 if any(b.kind for b in bands) else 0))
    few = series.thinned()
    body = [
        *(_band(axes, band) for band in bands),
        *(_run(axes, run, row) for run, row in zip(runs, rows, strict=True)),
        _grid(axes),
        *_lines(axes, few),
        *([_objective(axes, slo)] if slo is not None else []),
        _load(axes, few),
        _time(axes),
        *([] if all(_fits(axes, band) for band in bands) else [_legend(axes, bands)]),
    ]
    drawing = svg.picture(_WIDTH, axes.bottom + 50, *body, text=_said(shape, series, slo))
    table, many = markup.table(_COLUMNS, _rows(shape), label=f"{title(shape)}, by phase"), len(bands) > _MANY_ROWS
    return drawing + (el("details", el("summary", "By phase, as a table"), table) if many else table)


def _axes(series: Series, slo: float | None) -> _Axes:
    seen = [v for one in (series.p50, series.p99, series.slowest) for v in one if v is not None and v > 0]
    seen += [slo] if slo else []
    low, high = min(seen, default=1.0), max(seen, default=10.0)
    return _Axes(series.seconds, 10 ** math.floor(math.log10(low)), max(high * 1.5, low * 10), 0.0)


def _run(axes: _Axes, run: Band, row: int) -> Markup:
    x, y = axes.x(max(0.0, run.start)), 14.0 + 18 * row
    line = el("line", x1=x, x2=x, y1=y - 10, y2=axes.bottom, class_="edge")
    return el("g", line, svg.text(x + 5, y, run.label, class_="phase"))


def _band(axes: _Axes, band: Band) -> Markup:
    """Shade a phase, and name its kind above the plot where there is room."""
    x, right = axes.x(max(0.0, band.start)), axes.x(min(band.end, axes.seconds))
    shade = el("rect", x=x, y=axes.top, width=max(0.0, right - x), height=axes.bottom - axes.top, class_="band")
    words = [svg.text(x + 5, axes.top - 6, band.kind, class_="tick")] if band.kind and _fits(axes, band) else []
    return el("g", shade, *words, class_=_class(band.kind))


def _fits(axes: _Axes, band: Band) -> bool:
    return svg.width_of(band.kind, 11) + 8 <= axes.x(band.end) - axes.x(band.start) or not band.kind


def _legend(axes: _Axes, bands: Sequence[Band]) -> Markup:
    """Say what the shades mean, where a phase is too short to bear its name."""
    parts, x, y = [], _LEFT, axes.bottom + 44
    for kind in dict.fromkeys(band.kind for band in bands if band.kind):
        box = el("rect", x=x, y=y - 9, width=12, height=10, class_="band")
        parts.append(el("g", box, svg.text(x + 18, y, kind, class_="tick"), class_=f"{_class(kind)} legend"))
        x += svg.width_of(kind, 11) + 44
    return el("g", *parts)


def _class(kind: str) -> str:
    return f"b-{kind}" if kind in _KINDS else "b-other"


def _grid(axes: _Axes) -> Markup:
    parts = []
    ms = axes.low
    while ms <= axes.high:
        y = axes.y(ms)
        parts.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(
            svg.text(_LEFT - 8, y + 4, f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms", class_="tick", anchor="end")
        )
        ms *= 10
    return el("g", *parts)


def _lines(axes: _Axes, series: Series) -> list[Markup]:
    named = (("slowest", series.slowest, "max"), ("p99", series.p99, "p99"), ("p50", series.p50, "p50"))
    drawn, ends = [], []
    for name, values, class_ in named:
        middle = [(axes.x((i + 0.5) * series.bucket_s), None if v is None else axes.y(v)) for i, v in enumerate(values)]
        drawn.append(el("path", d=svg.polyline(middle), class_=f"line {class_}"))
        last = fold(median, [v for v in values if v is not None][-10:])
        if last is not None:
            ends.append((f"{name} {svg.milliseconds(last)}", axes.y(last), class_))
    spots = svg.spread([y for _, y, _ in ends], 16, axes.top + 6, axes.top + _PLOT)
    right = _WIDTH - _RIGHT + 8
    return drawn + [svg.text(right, y + 4, n, class_=f"end {c}") for (n, _, c), y in zip(ends, spots, strict=True)]


def _objective(axes: _Axes, slo: float) -> Markup:
    y = axes.y(slo)
    words = f"objective: p99 {svg.milliseconds(slo)}"
    return el(
        "g",
        el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="slo"),
        svg.text(_WIDTH - _RIGHT - 6, y - 6, words, class_="slo-label halo", anchor="end"),
    )


def _load(axes: _Axes, series: Series) -> Markup:
    """Draw requests per second as bars below the plot, and a cross over every bucket in which one failed."""
    top = axes.top + _PLOT + 22
    most = max(series.requests) or 1
    step = axes.x(series.bucket_s) - axes.x(0)
    rate = most / series.bucket_s
    parts = [
        svg.text(_LEFT - 8, top + 10, f"{rate:,.0f}/s", class_="tick", anchor="end"),
        svg.text(_WIDTH - _RIGHT + 8, top + 10, "requests", class_="end load"),
        el("path", d=_bars(axes, series, top, most, step), class_="load"),
    ]
    failed = sum(series.failed)
    words = f"{failed:,} failed" if failed else "none failed"
    parts.append(svg.text(_WIDTH - _RIGHT + 8, top + 28, words, class_="end failed" if failed else "end load"))
    crosses = (axes.x((i + 0.5) * series.bucket_s) for i, n in enumerate(series.failed) if n)
    data = "".join(f"M{x - 3.5:.1f} {top - 9.5:.1f}l7 7m0 -7l-7 7" for x in crosses)
    return el("g", *parts, *([el("path", d=data, class_="cross")] if data else []))


def _bars(axes: _Axes, series: Series, top: float, most: int, step: float) -> str:
    floor, data = top + _LOAD, f"M{_LEFT:.1f} {top + _LOAD:.1f}"
    for i, n in enumerate(series.requests):
        data += f"H{axes.x(i * series.bucket_s):.1f}V{floor - _LOAD * n / most:.1f}h{step:.2f}"
    return f"{data}V{floor:.1f}Z"


def _time(axes: _Axes) -> Markup:
    y = axes.bottom
    parts = [el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="rule")]
    for tick in _clock_ticks(axes.seconds):
        parts.append(svg.text(axes.x(tick), y + 18, svg.clock(tick), class_="tick", anchor="middle"))
    parts.append(svg.text(_WIDTH - _RIGHT + 8, y + 18, "min:s", class_="tick"))
    return el("g", *parts)


def _clock_ticks(seconds: float) -> list[float]:
    step = next((s for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600) if seconds / s <= 10), seconds / 6)
    return [step * i for i in range(int(seconds / step) + 1)]


def _said(shape: Shape, series: Series, slo: float | None) -> str:
    worst = fold(max, series.p99)
    over = sum(v is not None and slo is not None and v > slo for v in series.p99)
    objective = (
        f" The objective is p99 {svg.milliseconds(slo)}; {over} of {len(series.p99)} buckets exceed it." if slo else ""
    )
    peak = f" The highest p99 of a bucket is {svg.milliseconds(worst)}." if worst is not None else ""
    return (
        f"{title(shape)}. Latency on a logarithmic scale over {series.seconds:.0f} seconds:"
        f" {sum(series.requests):,} requests, {sum(series.failed):,} failed.{peak}{objective}"
        " The table below has each phase."
    )


def _markdown(shape: Shape) -> str:
    slo = shape.get("slo_p99_ms")
    note = f"\n\nThe objective is p99 {svg.milliseconds(float(slo))}." if slo is not None else ""
    return gfm.table(_COLUMNS, _rows(shape)) + note


EXHIBIT = Exhibit(_html, _markdown)
