"""A directed graph: who may act as whom, who owns what, which policy guards which table.

Shape: ``{"type": "graph", "title", "nodes": [{"id", "label", "kind"}], "edges": [{"from", "to", "label", "kind"}]}``.
``kind`` of a node: ``login``, ``group``, ``owner``, ``superuser``, ``object``, else plain; it stands below the label.
``kind`` of an edge: ``danger``, ``weak`` (dashed), else plain. An edge to an unknown id adds that node.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from dbsec.report import gfm, layered, markup, svg
from dbsec.report.exhibits import Exhibit, Shape, title
from dbsec.report.markup import el

_NODES = ("login", "group", "owner", "superuser", "object")
_EDGES = ("danger", "weak")
_HIGH, _GAP, _PAD, _MOST, _WORDS = 40.0, 16.0, 8.0, 26, 24


@dataclass(frozen=True, slots=True)
class _Node:
    id: str
    label: str
    kind: str


@dataclass(frozen=True, slots=True)
class _Edge:
    start: str
    end: str
    label: str
    kind: str


def _read(shape: Shape) -> tuple[dict[str, _Node], list[_Edge]]:
    nodes = {
        str(n["id"]): _Node(str(n["id"]), str(n.get("label", n["id"])), str(n.get("kind", ""))) for n in shape["nodes"]
    }
    edges = [
        _Edge(str(e["from"]), str(e["to"]), str(e.get("label", "")), str(e.get("kind", ""))) for e in shape["edges"]
    ]
    for name in (end for e in edges for end in (e.start, e.end)):
        nodes.setdefault(name, _Node(name, name, ""))
    return nodes, edges


def _rows(shape: Shape) -> list[tuple[str, str, str, str]]:
    nodes, edges = _read(shape)
    joined = {end for e in edges for end in (e.start, e.end)}
    rows = [(nodes[e.start].label, e.label, nodes[e.end].label, e.kind) for e in edges]
    return rows + [(n.label, "", "", n.kind) for n in nodes.values() if n.id not in joined]


_COLUMNS = ("from", "may", "to", "kind")


def _html(shape: Shape) -> Markup:
    nodes, edges = _read(shape)
    drawn = [e for e in edges if e.start != e.end]
    layout = layered.place(list(nodes), [(e.start, e.end) for e in drawn], size=_HIGH, gap=_GAP)
    columns = _columns(nodes, drawn, layout)
    width = columns[-1][1] + _PAD
    lines, labels = _edges(drawn, layout, columns)
    boxes = [_box(n, columns[layout.rank[n.id]], layout.y[n.id] + _PAD) for n in nodes.values()]
    said = f"{title(shape)}. A graph of {len(nodes)} nodes and {len(edges)} edges; the table below lists them."
    picture = svg.picture(width, layout.height + 2 * _PAD, *lines, *boxes, *labels, text=said)
    listed = markup.table(_COLUMNS, _rows(shape), label=f"{title(shape)}, as a table")
    return picture + el("details", el("summary", "As a table"), listed, class_="twin")


def _columns(nodes: dict[str, _Node], edges: list[_Edge], layout: layered.Layout) -> list[tuple[float, float]]:
    """Return left and right of each column: as wide as its widest node, as far apart as the labels between need."""
    count = max(layout.rank.values(), default=0) + 1
    wide = [72.0] * count
    apart = [64.0] * count
    for node in nodes.values():
        words = max(svg.width_of(svg.clipped(node.label, _MOST), 13), svg.width_of(node.kind, 10.5))
        wide[layout.rank[node.id]] = max(wide[layout.rank[node.id]], words + 24)
    for edge in edges:
        left = min(layout.rank[edge.start], layout.rank[edge.end])
        apart[left] = max(apart[left], svg.width_of(svg.clipped(edge.label, _WORDS), 11) + 48)
    columns, x = [], _PAD
    for i in range(count):
        columns.append((x, x + wide[i]))
        x += wide[i] + apart[i]
    return columns


def _box(node: _Node, column: tuple[float, float], y: float) -> Markup:
    kind = node.kind if node.kind in _NODES else "plain"
    x, right = column
    middle = (x + right) / 2
    corner = {"login": 20, "object": 2}.get(kind, 8)
    return el(
        "g",
        el("rect", x=x, y=y - _HIGH / 2, width=right - x, height=_HIGH, rx=corner),
        svg.text(
            middle, y - 1 if node.kind else y + 4.5, svg.clipped(node.label, _MOST), class_="name", anchor="middle"
        ),
        *(
            [svg.text(middle, y + 13, svg.clipped(node.kind, _MOST), class_="kind", anchor="middle")]
            if node.kind
            else []
        ),
        class_=f"node k-{kind}",
    )


def _edges(
    edges: list[_Edge], layout: layered.Layout, columns: list[tuple[float, float]]
) -> tuple[list[Markup], list[Markup]]:
    lines = []
    fans: dict[tuple[int, float], dict[tuple[str, str], list[float]]] = {}
    for edge, path in zip(edges, layout.paths, strict=True):
        points = [(c, y + _PAD) for c, y in path]
        backwards = layout.rank[edge.start] > layout.rank[edge.end]
        kind = edge.kind if edge.kind in _EDGES else "plain"
        lines.append(el("g", *_curve(points, columns, backwards=backwards), class_=f"edge e-{kind}"))
        if edge.label:
            fans.setdefault(points[0], {}).setdefault((edge.label, kind), []).append(points[1][1])
    labels = [label for (c, y), fan in fans.items() for label in _labels(columns[c][1] + 10, y, fan)]
    return lines, labels


def _labels(x: float, y: float, fan: dict[tuple[str, str], list[float]]) -> list[Markup]:
    """Write what leaves a node once per label, beside the node, on the side where its edges do not bend across it."""
    order = sorted(fan, key=lambda key: sum(fan[key]) / len(fan[key]))
    above = [key for key in order if sum(fan[key]) / len(fan[key]) < y] if len(order) > 1 else []
    if len(order) == 1 and sum(fan[order[0]]) / len(fan[order[0]]) >= y - 1:
        above = order
    below = [key for key in order if key not in above]
    spots = [(key, y - 6 - 13 * i) for i, key in enumerate(reversed(above))]
    spots += [(key, y + 14 + 13 * i) for i, key in enumerate(below)]
    return [
        svg.text(x, at, svg.clipped(label, _WORDS), class_=f"edge-label halo e-{kind}") for (label, kind), at in spots
    ]


def _curve(points: list[tuple[int, float]], columns: list[tuple[float, float]], *, backwards: bool) -> list[Markup]:
    x, y = columns[points[0][0]][1], points[0][1]
    data, start = f"M{x:.1f} {y:.1f}", (x, y)
    for column, below in points[1:]:
        left, right = columns[column]
        bend = (left - x) / 2
        data += f"C{x + bend:.1f} {y:.1f} {left - bend:.1f} {below:.1f} {left:.1f} {below:.1f}"
        y, x = below, left
        if (column, below) != points[-1]:
            data, x = data + f"H{right:.1f}", right
    tip, way = (start, 1) if backwards else ((x, y), -1)
    head = f"M{tip[0]:.1f} {tip[1]:.1f}l{way * 8} -4v8z"
    return [el("path", d=data, class_="run"), el("path", d=head, class_="head")]


def _markdown(shape: Shape) -> str:
    return gfm.table(_COLUMNS, _rows(shape))


EXHIBIT = Exhibit(_html, _markdown)
