"""Latency under load: p50 and p99 over time with the phases shaded, the objective, throughput and every failed request.

Shape: ``{"type": "latency", "title", "bucket_s": seconds per bucket, "t0": rfc3339 or "", "requests": [int], "failed":
[int], "p50_ms", "p99_ms", "max_ms": [float or null, where nothing was served], "bands": [{"label", "from_s", "to_s",
"kind"}], "slo_p99_ms": float or null}``. Bucket ``i`` covers ``i * bucket_s`` and on; all lists have one length.
``kind`` of a band: ``before``, ``apply``, ``after``, else neutral; neighbours with one label are named once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from dbsec.report import gfm, markup, svg
from dbsec.report.exhibits import Exhibit, Shape, title
from dbsec.report.markup import el

_WIDTH, _LEFT, _RIGHT, _PLOT, _LOAD = 920.0, 52.0, 104.0, 230.0, 44.0
_MOST_POINTS = 600
_COLUMNS = ("phase", "seconds", "requests", "failed", "p50, median", "p99, median", "p99, worst", "slowest")
_BANDS = ("before", "apply", "after")
Value = float | None
_Band = tuple[str, float, float, str]  # label, from and to in seconds, kind


@dataclass(frozen=True, slots=True)
class _Series:
    bucket_s: float
    requests: Sequence[int]
    failed: Sequence[int]
    p50: Sequence[Value]
    p99: Sequence[Value]
    slowest: Sequence[Value]

    @property
    def seconds(self) -> float:
        return len(self.requests) * self.bucket_s

    def between(self, start: float, end: float) -> _Series:
        """Cut out the buckets that begin within [start, end)."""
        cut = slice(max(0, math.ceil(start / self.bucket_s - 1e-9)), max(0, math.ceil(end / self.bucket_s - 1e-9)))
        return _Series(
            self.bucket_s, self.requests[cut], self.failed[cut], self.p50[cut], self.p99[cut], self.slowest[cut]
        )

    def thinned(self) -> _Series:
        """Join buckets until few enough to draw are left: counts add up, latencies keep the worst, p50 the middle."""
        n = math.ceil(len(self.requests) / _MOST_POINTS)
        if n <= 1:
            return self
        starts = range(0, len(self.requests), n)
        return _Series(
            self.bucket_s * n,
            [sum(self.requests[i : i + n]) for i in starts],
            [sum(self.failed[i : i + n]) for i in starts],
            [_of(median, self.p50[i : i + n]) for i in starts],
            [_of(max, self.p99[i : i + n]) for i in starts],
            [_of(max, self.slowest[i : i + n]) for i in starts],
        )


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


def _of(fold: object, values: Iterable[Value]) -> Value:
    served = [v for v in values if v is not None]
    return float(fold(served)) if served and callable(fold) else None


def _read(shape: Shape) -> _Series:
    lists = [list(shape[key]) for key in ("requests", "failed", "p50_ms", "p99_ms", "max_ms")]
    if len({len(one) for one in lists}) != 1 or not lists[0] or not float(shape["bucket_s"]) > 0:
        raise ValueError("latency lists differ in length, or are empty")
    counts = [[int(v) for v in one] for one in lists[:2]]
    times = [[None if v is None else float(v) for v in one] for one in lists[2:]]
    return _Series(float(shape["bucket_s"]), counts[0], counts[1], *times)


def _bands(shape: Shape) -> list[_Band]:
    bands = [(str(b["label"]), float(b["from_s"]), float(b["to_s"]), str(b.get("kind", ""))) for b in shape["bands"]]
    return sorted(bands, key=lambda b: b[1])


def _rows(shape: Shape) -> list[tuple[object, ...]]:
    series = _read(shape)
    parts = [(f"{label}, {kind}" if kind else label, start, end) for label, start, end, kind in _bands(shape)]
    rows: list[tuple[object, ...]] = []
    for label, start, end in [*parts, ("whole run", 0.0, series.seconds)]:
        part = series.between(start, end)
        times = (_of(median, part.p50), _of(median, part.p99), _of(max, part.p99), _of(max, part.slowest))
        shown = [svg.milliseconds(t) if t is not None else "" for t in times]
        rows.append((label, f"{end - start:.0f}", sum(part.requests), sum(part.failed), *shown))
    return rows


def _html(shape: Shape) -> Markup:
    series, bands = _read(shape), _bands(shape)
    slo = None if shape.get("slo_p99_ms") is None else float(shape["slo_p99_ms"])
    words = _labels(bands)
    places = [
        (x, x + svg.width_of(w, 11.5)) for b, w in zip(bands, words, strict=True) for x in [_band_x(series, b[1])]
    ]
    rows = svg.rows_for(places, gap=10)
    axes = _axes(series, slo, top=10.0 + 18 * (1 + max(rows, default=-1)))
    few = series.thinned()
    body = [
        *(_band(axes, band, word, row) for band, word, row in zip(bands, words, rows, strict=True)),
        _grid(axes),
        *_lines(axes, few),
        *([_objective(axes, slo)] if slo is not None else []),
        _load(axes, few),
        _time(axes),
    ]
    height = axes.top + _PLOT + _LOAD + 54
    drawing = svg.picture(_WIDTH, height, *body, text=_said(shape, series, slo))
    return drawing + markup.table(_COLUMNS, _rows(shape), label=f"{title(shape)}, by phase")


def _band_x(series: _Series, start: float) -> float:
    return _LEFT + start / series.seconds * (_WIDTH - _LEFT - _RIGHT)


def _axes(series: _Series, slo: float | None, *, top: float) -> _Axes:
    seen = [v for one in (series.p50, series.p99, series.slowest) for v in one if v is not None and v > 0]
    seen += [slo] if slo else []
    low, high = min(seen, default=1.0), max(seen, default=10.0)
    return _Axes(series.seconds, 10 ** math.floor(math.log10(low)), max(high * 1.5, low * 10), top)


def _labels(bands: Sequence[_Band]) -> list[str]:
    """Name each band in few words: a run of bands with one label says it once, and then only the kind."""
    previous = ["", *(band[0] for band in bands)]
    full = (f"{label}: {kind}" if kind else label for label, _, _, kind in bands)
    return [b[3] if b[0] == p and b[3] else f for b, p, f in zip(bands, previous, full, strict=False)]


def _band(axes: _Axes, band: _Band, word: str, row: int) -> Markup:
    _, start, end, kind = band
    x, right = axes.x(max(0.0, start)), axes.x(min(end, axes.seconds))
    bottom = axes.top + _PLOT + _LOAD + 22
    label_y = 14.0 + 18 * row
    return el(
        "g",
        el("rect", x=x, y=axes.top, width=max(0.0, right - x), height=bottom - axes.top, class_="band"),
        el("line", x1=x, x2=x, y1=label_y - 10, y2=bottom, class_="edge"),
        svg.text(x + 5, label_y, word, class_="phase"),
        class_=f"b-{kind}" if kind in _BANDS else "b-other",
    )


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


def _lines(axes: _Axes, series: _Series) -> list[Markup]:
    named = (("slowest", series.slowest, "max"), ("p99", series.p99, "p99"), ("p50", series.p50, "p50"))
    drawn, ends = [], []
    for name, values, class_ in named:
        middle = [(axes.x((i + 0.5) * series.bucket_s), None if v is None else axes.y(v)) for i, v in enumerate(values)]
        drawn.append(el("path", d=svg.polyline(middle), class_=f"line {class_}"))
        last = _of(median, [v for v in values if v is not None][-10:])
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


def _load(axes: _Axes, series: _Series) -> Markup:
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


def _bars(axes: _Axes, series: _Series, top: float, most: int, step: float) -> str:
    floor, data = top + _LOAD, f"M{_LEFT:.1f} {top + _LOAD:.1f}"
    for i, n in enumerate(series.requests):
        data += f"H{axes.x(i * series.bucket_s):.1f}V{floor - _LOAD * n / most:.1f}h{step:.2f}"
    return f"{data}V{floor:.1f}Z"


def _time(axes: _Axes) -> Markup:
    y = axes.top + _PLOT + _LOAD + 22
    parts = [el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="rule")]
    for tick in _clock_ticks(axes.seconds):
        parts.append(svg.text(axes.x(tick), y + 18, svg.clock(tick), class_="tick", anchor="middle"))
    parts.append(svg.text(_WIDTH - _RIGHT + 8, y + 18, "min:s", class_="tick"))
    return el("g", *parts)


def _clock_ticks(seconds: float) -> list[float]:
    step = next((s for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600) if seconds / s <= 10), seconds / 6)
    return [step * i for i in range(int(seconds / step) + 1)]


def _said(shape: Shape, series: _Series, slo: float | None) -> str:
    worst = _of(max, series.p99)
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
